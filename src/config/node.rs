//! A parsed text in which every value and every key knows its bytes: what TOML and JSON have in common.
//!
//! Objects are deserialised from nodes ([`super::deserialize`]), so that both formats read alike and err alike.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeInteger, DeTable, DeValue};

use super::deserialize::DecodeError;

/// A value with the bytes it was written as.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its bytes in the text. Of a TOML `[table]`, those of the header.
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

/// A key with the bytes it was written as.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) span: Range<usize>,
    pub(super) text: String,
}

/// What TOML and JSON can say.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    String(String),
    /// TOML's date and time, which nothing in our configuration is.
    Date,
    Array(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

impl Value {
    /// What it is, for messages: "expected a string, found an array".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a fractional number",
            Self::String(_) => "a string",
            Self::Date => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// The value of `key`, if this is a table that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Reads a TOML document: a table.
    ///
    /// # Errors
    /// Every syntax error that the parser could recover from, and the one it could not.
    pub(super) fn from_toml(text: &str) -> Result<Self, Vec<DecodeError>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let span = document.span();
            return Ok(Self { span, value: toml_table(document.into_inner()) });
        }
        let error = |error: toml::de::Error| DecodeError::new(error.message()).at(error.span().unwrap_or(0..0));
        Err(errors.into_iter().map(error).collect())
    }

    /// Reads a JSON value.
    ///
    /// # Errors
    /// The first syntax error.
    pub(super) fn from_json(text: &str) -> Result<Self, DecodeError> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| json_syntax_error(text, &error))?;
        json_node(raw, text, JSON_DEPTH_MAX)
    }
}

/// How deep arrays and tables of a JSON value may be nested. None of our objects needs more than five levels.
const JSON_DEPTH_MAX: usize = 32;

fn toml_table(table: DeTable<'_>) -> Value {
    let entry = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'_>>)| {
        let key_span = key.span();
        let text: std::borrow::Cow<'_, str> = key.into_inner();
        (Key { span: key_span, text: text.into_owned() }, toml_node(value))
    };
    Value::Table(table.into_iter().map(entry).collect())
}

fn toml_node(node: toml::Spanned<DeValue<'_>>) -> Node {
    let span = node.span();
    let value = match node.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => toml_integer(&number),
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Date, Value::Float),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::Array(items.into_iter().map(toml_node).collect()),
        DeValue::Table(table) => toml_table(table),
    };
    Node { span, value }
}

/// An integer beyond 128 bits becomes infinite, which no field takes.
fn toml_integer(number: &DeInteger<'_>) -> Value {
    i128::from_str_radix(number.as_str(), number.radix()).map_or(Value::Float(f64::INFINITY), Value::Integer)
}

fn json_syntax_error(text: &str, error: &serde_json::Error) -> DecodeError {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let start = floor_char(text, (line_start + error.column().saturating_sub(1)).min(text.len()));
    let end = text.get(start..).and_then(|rest| rest.chars().next()).map_or(start, |c| start + c.len_utf8());
    DecodeError::new(message.strip_suffix(&place).unwrap_or(&message)).label("not JSON from here on").at(start..end)
}

fn floor_char(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// The bytes of `raw` inside `text`, of which it is a part.
fn json_span(raw: &RawValue, text: &str) -> Range<usize> {
    let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + raw.get().len()
}

/// Takes one level of a JSON value apart, and the levels below it.
fn json_node(raw: &RawValue, text: &str, depth_left: usize) -> Result<Node, DecodeError> {
    let span = json_span(raw, text);
    let at = |error: serde_json::Error| json_part_error(&error).at(span.clone());
    let below = depth_left.checked_sub(1).ok_or_else(|| DecodeError::new("nested too deep").at(span.clone()))?;
    let value = match raw.get().bytes().next() {
        Some(b'"') => Value::String(serde_json::from_str(raw.get()).map_err(at)?),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(at)?;
            Value::Array(items.into_iter().map(|item| json_node(item, text, below)).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let entries: RawEntries<'_> = serde_json::from_str(raw.get()).map_err(at)?;
            Value::Table(entries.0.into_iter().map(|(key, value)| json_entry(key, value, text, below)).collect::<Result<_, _>>()?)
        }
        Some(b't') => Value::Boolean(true),
        Some(b'f') => Value::Boolean(false),
        Some(b'n') => Value::Null,
        _ => match raw.get().parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Float(serde_json::from_str(raw.get()).map_err(at)?),
        },
    };
    Ok(Node { span, value })
}

fn json_entry(key: &RawValue, value: &RawValue, text: &str, depth_left: usize) -> Result<(Key, Node), DecodeError> {
    let span = json_span(key, text);
    let name = serde_json::from_str(key.get()).map_err(|error| json_part_error(&error).at(span.clone()))?;
    Ok((Key { span, text: name }, json_node(value, text, depth_left)?))
}

/// What serde_json finds in a part, without the line and column, which count from the start of that part.
fn json_part_error(error: &serde_json::Error) -> DecodeError {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    DecodeError::new(message.strip_suffix(&place).unwrap_or(&message))
}

/// The keys and values of a JSON object, each as it is written.
struct RawEntries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawEntries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(&'de RawValue, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(RawEntries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key and scalar with the text at its span.
    fn leaves(node: &Node, text: &str, found: &mut Vec<(String, String)>) {
        match &node.value {
            Value::Table(entries) => {
                for (key, value) in entries {
                    found.push((key.text.clone(), text[key.span.clone()].to_string()));
                    leaves(value, text, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| leaves(item, text, found)),
            value => found.push((value.kind().to_string(), text[node.span.clone()].to_string())),
        }
    }

    fn check(node: &Node, text: &str, expected: &[(&str, &str)]) {
        let mut found = Vec::new();
        leaves(node, text, &mut found);
        let found: Vec<_> = found.iter().map(|(what, written)| (what.as_str(), written.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn toml_values_know_their_bytes() {
        let text = "[a]\nb = 'x'\n\"c\" = [1, 2.5]\n";
        let expected =
            [("a", "a"), ("b", "b"), ("a string", "'x'"), ("c", "\"c\""), ("a whole number", "1"), ("a fractional number", "2.5")];
        check(&Node::from_toml(text).unwrap(), text, &expected);
    }

    #[test]
    fn json_values_know_their_bytes() {
        let text = r#" {"a": {"b":"x\n"}, "ü\t": [ 1, null, true, -2.5 ]}"#;
        let expected = [
            ("a", "\"a\""),
            ("b", "\"b\""),
            ("a string", "\"x\\n\""),
            ("ü\t", "\"ü\\t\""),
            ("a whole number", "1"),
            ("null", "null"),
            ("a boolean", "true"),
            ("a fractional number", "-2.5"),
        ];
        check(&Node::from_json(text).unwrap(), text, &expected);
    }

    #[test]
    fn json_nesting_is_bounded() {
        let text = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(Node::from_json(&text).unwrap_err().message, "nested too deep");
    }

    #[test]
    fn json_syntax_errors_point_at_the_offending_byte() {
        let text = "{\"ü\": 1,\n  oops}";
        let error = Node::from_json(text).unwrap_err();
        assert_eq!(&text[error.span.unwrap()], "o");
        assert_eq!(error.message, "key must be a string");
        for text in ["", "{", "\"abc", "{}x", "ü"] {
            assert!(Node::from_json(text).unwrap_err().span.is_some_and(|span| text.get(span).is_some()), "{text}");
        }
    }

    #[test]
    fn toml_reports_several_syntax_errors() {
        assert!(Node::from_toml("a = = 1\n[b\nc = 'x\n").unwrap_err().len() > 1);
    }
}
