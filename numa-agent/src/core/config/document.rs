//! A JSON or TOML text as one kind of tree that knows on which line each value stands.
//!
//! Owns the two syntaxes and the lines; what the keys mean is the parent module's.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

/// Lists and tables within each other. A real file has three levels; the bound keeps a hostile one off the stack.
const MAX_DEPTH: usize = 16;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line of its key (of the value itself in a list), from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// A value of either syntax.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, JSON only.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float,
    /// A TOML date or time.
    Time,
    /// A string.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A table (JSON: object), in the file's order for JSON, by key for TOML.
    Table(Vec<(String, Node)>),
}

impl Value {
    /// What to call it in a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a whole number",
            Self::Float => "a number with a fraction or exponent",
            Self::Time => "a date or time",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Where a text stops being what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// `JSON` or `TOML`.
    pub format: &'static str,
    /// From 1.
    pub line: usize,
    /// The parser's words.
    pub problem: String,
}

/// Parses `text` by the extension of `path`; without a known one, a text that starts with `{` is JSON.
pub fn parse(path: &str, text: &str) -> Result<Node, SyntaxError> {
    let text = text.trim_start_matches('\u{feff}');
    let extension = path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref() {
        Some("json") => parse_json(text),
        Some("toml") => parse_toml(text),
        _ if text.trim_start().starts_with('{') => parse_json(text),
        _ => parse_toml(text),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn parse_toml(text: &str) -> Result<Node, SyntaxError> {
    let table = DeTable::parse(text).map_err(|error| SyntaxError {
        format: "TOML",
        line: line_at(text, error.span().map_or(0, |span| span.start)),
        problem: error.message().trim().replace('\n', ", "),
    })?;
    toml_node(text, 1, &DeValue::Table(table.into_inner()), MAX_DEPTH)
}

fn toml_node(text: &str, line: usize, value: &DeValue<'_>, depth: usize) -> Result<Node, SyntaxError> {
    let value = match value {
        _ if depth == 0 => return Err(too_deep("TOML", line)),
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            // Too long for 128 bits is impossible for every key: the sign is all that a message needs.
            let digits = number.as_str().replace('_', "");
            let huge = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
            Value::Integer(i128::from_str_radix(&digits, number.radix()).unwrap_or(huge))
        }
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => Value::Time,
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| toml_node(text, line_at(text, item.span().start), item.get_ref(), depth - 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(entries) => Value::Table(
            entries
                .iter()
                .map(|(key, value)| {
                    let line = line_at(text, key.span().start);
                    Ok((key.get_ref().to_string(), toml_node(text, line, value.get_ref(), depth - 1)?))
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Node { line, value })
}

fn parse_json(text: &str) -> Result<Node, SyntaxError> {
    // Skipping over a raw value says less about what is wrong than reading it does.
    serde_json::from_str::<serde_json::Value>(text).map_err(|error| json_error(1, &error))?;
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| json_error(1, &error))?;
    json_node(text, raw, MAX_DEPTH)
}

/// serde_json gives no positions, but a raw value is a slice of the text: its address is its position.
fn json_line(text: &str, raw: &RawValue) -> usize {
    line_at(text, raw.get().as_ptr() as usize - text.as_ptr() as usize)
}

fn json_node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, SyntaxError> {
    let line = json_line(text, raw);
    let failed = |error: serde_json::Error| json_error(line, &error);
    let value = match raw.get().as_bytes().first() {
        _ if depth == 0 => return Err(too_deep("JSON", line)),
        Some(b'n') => Value::Null,
        Some(first @ (b't' | b'f')) => Value::Bool(*first == b't'),
        Some(b'"') => Value::String(serde_json::from_str(raw.get()).map_err(failed)?),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(failed)?;
            Value::List(
                items.into_iter().map(|item| json_node(text, item, depth - 1)).collect::<Result<_, _>>()?,
            )
        }
        Some(b'{') => {
            let entries = serde_json::Deserializer::from_str(raw.get()).deserialize_map(Entries);
            let mut table: Vec<(String, Node)> = Vec::new();
            for (key, value) in entries.map_err(failed)? {
                let line = json_line(text, key);
                let key: String = serde_json::from_str(key.get()).map_err(failed)?;
                if table.iter().any(|(other, _)| *other == key) {
                    return Err(SyntaxError {
                        format: "JSON",
                        line,
                        problem: format!("duplicate key {key:?}"),
                    });
                }
                table.push((key, Node { line, ..json_node(text, value, depth - 1)? }));
            }
            Value::Table(table)
        }
        _ => {
            let number = raw.get();
            let huge = if number.starts_with('-') { i128::MIN } else { i128::MAX };
            let whole = !number.contains(['.', 'e', 'E']);
            if whole { Value::Integer(number.parse().unwrap_or(huge)) } else { Value::Float }
        }
    };
    Ok(Node { line, value })
}

/// `first` is the line that the parsed piece starts on.
fn json_error(first: usize, error: &serde_json::Error) -> SyntaxError {
    let problem = error.to_string();
    let problem = problem.split(" at line ").next().unwrap_or_default().to_owned();
    SyntaxError { format: "JSON", line: (first + error.line()).saturating_sub(1).max(1), problem }
}

fn too_deep(format: &'static str, line: usize) -> SyntaxError {
    SyntaxError { format, line, problem: format!("more than {MAX_DEPTH} levels of lists and tables") }
}

/// Collects an object's keys and values as slices of the text.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(&'de RawValue, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Node {
        let Value::Table(entries) = &node.value else { panic!("{node:?} is no table") };
        &entries.iter().find(|(name, _)| name == key).expect("the key is there").1
    }

    #[test]
    fn both_syntaxes_give_the_same_values_with_their_lines() {
        let json = parse(
            "x.json",
            "{\n \"a\": 1,\n \"l\": [\n  \"x\",\n  {\"k\": -2}\n ],\n \"e\\u0041\":\n 1.5\n}",
        )
        .unwrap();
        let toml = parse("x.toml", "a = 1\nl = [\n 'x',\n {k = -2}\n]\neA = 1.5\n").unwrap();
        let Value::List(items) = &entry(&json, "l").value else { panic!() };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(entry(&items[1], "k"), &Node { line: 5, value: Value::Integer(-2) });
        assert_eq!(entry(&json, "eA"), &Node { line: 7, value: Value::Float });
        let Value::List(items) = &entry(&toml, "l").value else { panic!() };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(entry(&items[1], "k"), &Node { line: 4, value: Value::Integer(-2) });
        assert_eq!(entry(&toml, "eA"), &Node { line: 6, value: Value::Float });
        assert_eq!(entry(&toml, "a"), &Node { line: 1, value: Value::Integer(1) });
    }

    #[test]
    fn a_name_without_extension_is_judged_by_its_text() {
        assert_eq!(entry(&parse("conf", " \n{\"a\": 1}").unwrap(), "a").value, Value::Integer(1));
        assert_eq!(entry(&parse("conf", "a = 1").unwrap(), "a").value, Value::Integer(1));
        assert_eq!(entry(&parse("/etc/numa.d/conf", "\u{feff}a = 1").unwrap(), "a").value, Value::Integer(1));
    }

    #[test]
    fn broken_text_is_refused_with_format_and_line() {
        for (path, text, format, line, words) in [
            ("x.json", "{\n\"a\": 1,\n}", "JSON", 3, "trailing comma"),
            ("x.json", "{\n\"a\": 1\n} x", "JSON", 3, "trailing characters"),
            ("x.json", "", "JSON", 1, "EOF"),
            ("x.json", "{\n\"a\": 1,\n\"a\": 2}", "JSON", 3, "duplicate key \"a\""),
            ("x.json", "{\n\"a\": \"\\q\"}", "JSON", 2, "invalid escape"),
            ("x.toml", "a = 1\na = 2\n", "TOML", 2, "duplicate key"),
            ("x.toml", "a = 1\nb = [1,\n", "TOML", 2, "array"),
            ("x.toml", "{\"a\": 1}", "TOML", 1, ""),
        ] {
            let error = parse(path, text).expect_err(text);
            assert_eq!((error.format, error.line), (format, line), "{text:?}: {error:?}");
            assert!(error.problem.contains(words), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn hostile_depth_and_numbers_do_no_harm() {
        assert!(parse("x.json", &"[".repeat(1_000_000)).is_err());
        assert!(
            parse("x.json", &format!("{}1{}", "[".repeat(100), "]".repeat(100)))
                .unwrap_err()
                .problem
                .contains("16")
        );
        assert!(
            parse("x.toml", &format!("a = {}1{}", "[".repeat(40), "]".repeat(40)))
                .unwrap_err()
                .problem
                .contains("16")
        );
        let long = "9".repeat(60);
        assert_eq!(
            entry(&parse("x.json", &format!("{{\"a\": -{long}}}")).unwrap(), "a").value,
            Value::Integer(i128::MIN)
        );
        assert_eq!(
            entry(&parse("x.json", &format!("{{\"a\": {long}}}")).unwrap(), "a").value,
            Value::Integer(i128::MAX)
        );
    }
}
