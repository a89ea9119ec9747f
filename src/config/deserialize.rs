//! Nodes as a serde data format, whose errors know the offending bytes and what was likely meant.
//!
//! Only the offending text is quoted, and of values only what a field's own parser quotes: a wrong value may be a secret.

use std::fmt::Display;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Expected, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Key, Node, Value};
use crate::suggest;

/// Why a node is not what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DecodeError {
    /// What is wrong, in one sentence without a full stop.
    pub(super) message: String,
    /// What is said right under the offending text.
    pub(super) label: String,
    /// How to mend it.
    pub(super) help: Option<String>,
    /// The offending bytes. None until a node that knows its bytes adds them.
    pub(super) span: Option<Range<usize>>,
}

impl DecodeError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), label: String::new(), help: None, span: None }
    }

    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    pub(super) fn help(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }

    /// The same at these bytes, unless narrower ones are known already.
    pub(super) fn at(self, span: Range<usize>) -> Self {
        Self { span: self.span.or(Some(span)), ..self }
    }

    /// A key or a keyword that is none of those `known`.
    pub(super) fn unknown(what: &str, found: &str, known: &[&str]) -> Self {
        let help = match (suggest::nearest(found, known.iter().copied()), known) {
            (Some(near), _) => Some(format!("did you mean `{near}`?")),
            (None, []) => None,
            (None, [only]) => Some(format!("the only one known here is `{only}`")),
            (None, _) => Some(format!("known here: {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))),
        };
        Self::new(format!("unknown {what} `{found}`")).label(format!("no such {what}")).help(help)
    }

    fn expected(expected: &str, found: &str) -> Self {
        Self::new(format!("expected {expected}, found {found}")).label(format!("expected {expected}"))
    }
}

impl Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::expected(&expected.to_string(), kind_of(&unexpected))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Str(_) | Unexpected::Bytes(_) => "another text".to_string(),
            other => other.to_string(),
        };
        Self::expected(&expected.to_string(), &found)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("keyword", variant, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("key", field, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("missing key `{field}`")).label(format!("has no `{field}`"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("key `{field}` is there twice"))
    }
}

fn kind_of(unexpected: &Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a fractional number",
        Unexpected::Char(_) | Unexpected::Str(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "an array",
        Unexpected::Map => "a table",
        _ => "something else",
    }
}

impl Node {
    /// An error of this node, without better knowledge about all of it.
    ///
    /// A message about the whole of a table that names one of its keys in backticks points at that key.
    pub(super) fn place(&self, error: DecodeError) -> DecodeError {
        let named = match &self.value {
            Value::Table(entries) if error.span.is_none() => {
                let mention = |(key, _): &(Key, Node)| Some((mention(&error.message, &key.text)?, key.span.clone()));
                entries.iter().filter_map(mention).min_by_key(|(offset, _)| *offset).map(|(_, span)| span)
            }
            _ => None,
        };
        error.at(named.unwrap_or_else(|| self.span.clone()))
    }

    fn mismatch(&self, expected: &str) -> DecodeError {
        DecodeError::expected(expected, self.value.kind()).at(self.span.clone())
    }
}

/// Where `message` speaks of `key`: the key, or what it is set to, in backticks.
fn mention(message: &str, key: &str) -> Option<usize> {
    let quoted = format!("`{key}");
    let is_whole = |at: &usize| {
        let after = message.get(at + quoted.len()..).and_then(|rest| rest.chars().next());
        matches!(after, Some('`' | ' ' | '='))
    };
    message.match_indices(&quoted).map(|(at, _)| at).find(is_whole)
}

macro_rules! deserialize_whole_numbers {
    ($($method:ident $visit:ident $number:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let Value::Integer(number) = self.value else {
                return Err(self.mismatch("a whole number"));
            };
            match <$number>::try_from(number) {
                Ok(number) => visitor.$visit(number).map_err(|error| self.place(error)),
                Err(_) => {
                    let range = format!("{} to {}", <$number>::MIN, <$number>::MAX);
                    Err(DecodeError::new(format!("{number} is out of range")).label(format!("must be {range}")).at(self.span.clone()))
                }
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Integer(number) => match i64::try_from(*number) {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => visitor.visit_i128(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Date => Err(de::Error::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::Array(items) => visit_items(items, visitor),
            Value::Table(entries) => visit_entries(entries, visitor),
        };
        result.map_err(|error| self.place(error))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|error| self.place(error))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self).map_err(|error| self.place(error))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Boolean(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("`true` or `false`")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::String(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Array(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("an array")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Table(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("a table")),
        }
    }

    /// A struct is a table and nothing else, although what serde derives would take an array too.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_map(visitor)
    }

    /// A variant is a string, or a table of one key.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::String(text) => visitor.visit_enum(StrDeserializer::new(text)),
            Value::Table(entries) => match entries.as_slice() {
                [(key, value)] => visitor.visit_enum(Variant { key, value }),
                [] => Err(DecodeError::new("expected a table of one key, found an empty one").help(Some(list(variants)))),
                [_, (second, _), ..] => Err(second_key(second)),
            },
            _ => Err(self.mismatch("a string or a table of one key")),
        }
        .map_err(|error| self.place(error))
    }

    deserialize_whole_numbers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

fn list(names: &[&str]) -> String {
    format!("known here: {}", names.join(", "))
}

fn second_key(key: &Key) -> DecodeError {
    DecodeError::new(format!("`{}` is one key too many", key.text)).label("a table of one key is expected").at(key.span.clone())
}

/// Lets `visitor` read `entries`, all of them: what it leaves is an error.
fn visit_entries<'de, V: Visitor<'de>>(entries: &'de [(Key, Node)], visitor: V) -> Result<V::Value, DecodeError> {
    let mut access = Entries { rest: entries, value: None };
    let value = visitor.visit_map(&mut access)?;
    match access.rest {
        [] => Ok(value),
        [(key, _), ..] => Err(second_key(key)),
    }
}

fn visit_items<'de, V: Visitor<'de>>(items: &'de [Node], visitor: V) -> Result<V::Value, DecodeError> {
    visitor.visit_seq(Items { rest: items.iter() })
}

struct Entries<'de> {
    rest: &'de [(Key, Node)],
    value: Option<&'de Node>,
}

impl<'de> de::MapAccess<'de> for &mut Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some(((key, value), rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        self.value = Some(value);
        seed.deserialize(StrDeserializer::new(&key.text)).map(Some).map_err(|error: DecodeError| error.at(key.span.clone()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let value = self.value.take().ok_or_else(|| DecodeError::new("a value was asked for before its key"))?;
        seed.deserialize(value).map_err(|error| value.place(error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Items<'de> {
    rest: std::slice::Iter<'de, Node>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(item) = self.rest.next() else {
            return Ok(None);
        };
        seed.deserialize(item).map(Some).map_err(|error| item.place(error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// A table of one key, as a variant with its content.
struct Variant<'de> {
    key: &'de Key,
    value: &'de Node,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = &'de Node;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, &'de Node), DecodeError> {
        let variant = seed.deserialize(StrDeserializer::new(&self.key.text));
        variant.map(|variant| (variant, self.value)).map_err(|error: DecodeError| error.at(self.key.span.clone()))
    }
}

impl<'de> de::VariantAccess<'de> for &'de Node {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match &self.value {
            Value::Table(entries) if entries.is_empty() => Ok(()),
            _ => Err(DecodeError::new("this value takes nothing; write its name alone, as a string").at(self.span.clone())),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self).map_err(|error| self.place(error))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_seq(self, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_struct(self, "", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::{Endpoint, Listener, Upstream};

    /// The message, and the text it points at.
    fn check<T: for<'de> Deserialize<'de> + std::fmt::Debug>(json: &str, message: &str, offending: &str) -> DecodeError {
        let node = Node::from_json(json).unwrap();
        let error = T::deserialize(&node).unwrap_err();
        assert_eq!((error.message.as_str(), &json[error.span.clone().unwrap()]), (message, offending));
        error
    }

    #[test]
    fn errors_point_at_the_offending_text() {
        check::<Listener>(r#"{"address":"web"}"#, &"web".parse::<crate::config::listen_address::ListenAddress>().unwrap_err(), r#""web""#);
        check::<Listener>(r#"{"address":":80","limits":{"headers":70000}}"#, "70000 is out of range", "70000");
        check::<Listener>(r#"{"address":":80","limits":[]}"#, "expected a table, found an array", "[]");
        check::<Listener>(r#"{"limits":{}}"#, "missing key `address`", r#"{"limits":{}}"#);
        check::<Upstream>(r#"{"balance":3}"#, "expected a string or a table of one key, found a whole number", "3");
        check::<Upstream>(r#"{"balance":{"hash":"client_ip","x":1}}"#, "`x` is one key too many", r#""x""#);
        check::<Upstream>(
            r#"{"endpoints":["10.0.0.1:80", 7]}"#,
            "expected an address such as \"10.0.0.1:8080\" or \"app.internal:8080\", or a table { address = \"10.0.0.1:8080\", weight = 1 }, \
             found a whole number",
            "7",
        );
    }

    #[test]
    fn unknown_names_come_with_a_suggestion() {
        let error = check::<Listener>(r#"{"adress":":80"}"#, "unknown key `adress`", r#""adress""#);
        assert_eq!(error.help.as_deref(), Some("did you mean `address`?"));
        let error = check::<Listener>(r#"{"address":":80","protocol":"tpc"}"#, "unknown keyword `tpc`", r#""tpc""#);
        assert_eq!(error.help.as_deref(), Some("did you mean `tcp`?"));
        let error = check::<Endpoint>(r#"{"zzz":1}"#, "unknown key `zzz`", r#""zzz""#);
        assert_eq!(error.help.as_deref(), Some("known here: `address`, `weight`, `backup`"));
    }

    #[test]
    fn wrong_values_are_not_quoted() {
        let error = Node::from_json(r#"{"cert":"a","key":12345}"#).unwrap();
        let error = crate::config::Certificate::deserialize(&error).unwrap_err();
        assert_eq!(error.message, "expected a string, found a whole number");
    }
}
