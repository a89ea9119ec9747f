//! YAML, JSON and TOML as one tree, in which every value knows its line.

use std::rc::Rc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use toml::de::{DeTable, DeValue};

use super::Input;
use super::draft::At;

/// How deep values may be nested.
const DEPTH_MAX: usize = 64;

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// A value. Texts, numbers and truth values are all texts.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Nothing,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of a key of a map. Case counts.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The entries of a map; of anything else none.
    pub(super) fn entries(&self) -> &[(String, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The elements of a list; a text counts as a list of one.
    pub(super) fn elements(&self) -> &[Node] {
        match &self.value {
            Value::List(elements) => elements,
            Value::Text(_) => std::slice::from_ref(self),
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a key of a map.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// The texts of a list under a key.
    pub(super) fn texts_of(&self, key: &str) -> Vec<&str> {
        self.get(key).map(Node::elements).unwrap_or_default().iter().filter_map(Node::text).collect()
    }

    /// Whether it is `true`.
    pub(super) fn is_true(&self, key: &str) -> bool {
        self.text_of(key) == Some("true")
    }
}

/// Reads a file: TOML if its name says so, else YAML, of which JSON is a part.
///
/// # Errors
/// A sentence that says where, and what is wrong.
pub(super) fn parse(input: &Input) -> Result<Node, String> {
    if input.name.ends_with(".toml") { parse_toml(input) } else { parse_yaml(input) }
}

fn parse_yaml(input: &Input) -> Result<Node, String> {
    let documents = MarkedYaml::load_from_str(&input.text).map_err(|error| format!("{}: {error}", input.name))?;
    match documents.as_slice() {
        [] => Ok(Node { at: input.at(1), value: Value::Nothing }),
        [document] => of_yaml(document, &input.name, 0),
        _ => Err(format!("{}: there are several documents in it", input.name)),
    }
}

fn of_yaml(yaml: &MarkedYaml<'_>, file: &Rc<str>, depth: usize) -> Result<Node, String> {
    let at = At { file: file.clone(), line: yaml.span.start.line() };
    if depth > DEPTH_MAX {
        return Err(format!("{at}: it is nested too deep"));
    }
    let value = match &yaml.data {
        YamlData::Value(Scalar::Null) => Value::Nothing,
        YamlData::Value(Scalar::Boolean(is_true)) => Value::Text(is_true.to_string()),
        YamlData::Value(Scalar::Integer(number)) => Value::Text(number.to_string()),
        YamlData::Value(Scalar::FloatingPoint(number)) => Value::Text(number.to_string()),
        YamlData::Value(Scalar::String(text)) | YamlData::Representation(text, ..) => Value::Text(text.to_string()),
        YamlData::Sequence(elements) => {
            Value::List(elements.iter().map(|element| of_yaml(element, file, depth + 1)).collect::<Result<_, _>>()?)
        }
        YamlData::Mapping(entries) => {
            let entry = |(key, value): (&MarkedYaml<'_>, &MarkedYaml<'_>)| {
                let key = of_yaml(key, file, depth + 1)?;
                let name = key.text().unwrap_or_default().to_owned();
                // The line of the key, which is where one looks for it.
                Ok((name, Node { at: key.at, ..of_yaml(value, file, depth + 1)? }))
            };
            Value::Map(entries.iter().map(entry).collect::<Result<_, String>>()?)
        }
        YamlData::Tagged(_, inner) => of_yaml(inner, file, depth + 1)?.value,
        YamlData::Alias(_) | YamlData::BadValue => return Err(format!("{at}: the value cannot be read")),
    };
    Ok(Node { at, value })
}

fn parse_toml(input: &Input) -> Result<Node, String> {
    let table = DeTable::parse(&input.text).map_err(|error| format!("{}: {error}", input.name))?;
    let line = |offset: usize| 1 + input.text.get(..offset).unwrap_or_default().matches('\n').count();
    Ok(Node { at: input.at(1), value: of_table(table.get_ref(), input, &line) })
}

fn of_table(table: &DeTable<'_>, input: &Input, line: &dyn Fn(usize) -> usize) -> Value {
    let entries = table.iter().map(|(key, value)| {
        let at = input.at(line(key.span().start));
        (key.get_ref().to_string(), Node { at, value: of_toml(value.get_ref(), input, line) })
    });
    Value::Map(entries.collect())
}

fn of_toml(value: &DeValue<'_>, input: &Input, line: &dyn Fn(usize) -> usize) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Text(number.to_string()),
        DeValue::Float(number) => Value::Text(number.to_string()),
        DeValue::Boolean(is_true) => Value::Text(is_true.to_string()),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(elements) => {
            let element = |element: &toml::Spanned<DeValue<'_>>| Node {
                at: input.at(line(element.span().start)),
                value: of_toml(element.get_ref(), input, line),
            };
            Value::List(elements.iter().map(element).collect())
        }
        DeValue::Table(table) => of_table(table, input, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Node {
        parse(&Input { name: name.into(), text: text.into() }).unwrap()
    }

    #[test]
    fn three_languages_are_one_tree() {
        for (name, text) in [
            ("a.yaml", "a:\n  b: 1\n  c:\n    - x\n    - true\n"),
            ("a.json", "{\"a\":{\n\t\"b\": 1,\n\t\"c\":\n [\"x\", true]}}"),
            ("a.toml", "[a]\nb = 1\nc = [\"x\", true]\n"),
        ] {
            let node = read(name, text);
            let a = node.get("a").unwrap();
            assert_eq!((a.text_of("b"), a.texts_of("c")), (Some("1"), vec!["x", "true"]), "{name}");
            assert_eq!((a.at.line, a.get("b").unwrap().at.line), (1, 2), "{name}");
        }
        assert!(parse(&Input { name: "x".into(), text: "a: [".into() }).is_err());
        assert!(parse(&Input { name: "x.toml".into(), text: "a =".into() }).is_err());
    }
}
