//! JSON as Go programs read it: the case of field names does not count, unknown fields are ignored, and `null` is absent.

use serde_json::{Map, Value};

/// The fields of an object.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The field of this name: spelled exactly so if there is such a one.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let alike = || self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        self.0.get(name).or_else(alike).filter(|value| !value.is_null())
    }

    /// The field of this name, if it is a string.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }
}

/// A whole number that is not negative. `1.0` is none.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64()
}

/// No fields at all.
pub(super) fn none() -> &'static Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    &NONE
}
