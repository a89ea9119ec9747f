//! Lengths of time in configuration: a number with a unit, such as `"2s"`, `"500ms"` or `"1h 30m"`.
//!
//! Used by `#[serde(with = "duration")]`. A bare number is refused, because nobody can tell its unit.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes a duration as text with units.
pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}

/// Reads a duration with its unit.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)
}

/// The same for a duration that may be absent.
pub(crate) mod optional {
    use super::{Deserializer, Duration, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}

/// The longest there is: 100 years. What is added to a time must not leave what a clock can show.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 31_557_600);

/// Reads a duration with its unit.
///
/// # Errors
/// A sentence that says what one looks like, or that it is longer than [`DURATION_MAX`].
pub fn parse(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text);
    let duration = parsed.map_err(|error| format!("`{text}` is not a duration such as \"2s\" or \"500ms\": {error}"))?;
    if duration > DURATION_MAX {
        return Err(format!("`{text}` is longer than {}", humantime::format_duration(DURATION_MAX)));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_a_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(parse("5").is_err());
        assert!(parse("-1s").is_err());
        assert_eq!(parse("100y"), Ok(DURATION_MAX));
        assert_eq!(parse("500000000000y").unwrap_err(), "`500000000000y` is longer than 100years");
    }
}
