//! Messages about values that do not match their schema. They never contain the text of a long
//! value. Pure: no client, no clock, no I/O.

use serde_json::Value;

/// Differences between the messages about bodies and about queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words {
    /// Message about a field that the schema does not have.
    pub(super) unknown: &'static str,
    /// True when all values are sent as text, so that the type of a value is not worth a mention.
    is_text: bool,
}

impl Words {
    pub(super) const BODY: Self = Self { unknown: "unknown field", is_text: false };
    pub(super) const QUERY: Self = Self { unknown: "unknown parameter", is_text: true };
}

/// Keyword of a schema with the expected value in words, for patterns and alternatives.
pub(in crate::api) const EXPECTED: &str = "x-expected";
/// Longest text of a value or of another library's message, in characters.
const MAX_TEXT: usize = 200;

/// Truncates a text.
pub(super) fn shorten(text: &str) -> String {
    crate::api::error::truncate(text, MAX_TEXT)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reports whether the schema states the expected value in words.
pub(super) fn has_phrase(schema: &Value) -> bool {
    schema[EXPECTED].is_string()
}

/// Returns the value that a schema expects, in words; `None` for null.
pub(super) fn expected(schema: &Value) -> Option<String> {
    if let Some(phrase) = schema[EXPECTED].as_str() {
        return Some(phrase.to_owned());
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return Some(format!("one of {}", words.join(", ")));
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.as_slice(),
        one => std::slice::from_ref(one),
    };
    let words = types.iter().filter_map(Value::as_str).filter_map(|name| match name {
        "integer" => Some(integer(schema)),
        "number" => Some("a number".to_owned()),
        "boolean" => Some("true or false".to_owned()),
        "string" => Some("a string".to_owned()),
        "array" => Some("a list".to_owned()),
        "object" => Some("an object".to_owned()),
        _ => None,
    });
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(" or "))
}

fn integer(schema: &Value) -> String {
    match (&schema["minimum"], &schema["maximum"]) {
        (Value::Number(least), Value::Number(most)) => format!("an integer from {least} to {most}"),
        (Value::Number(least), _) => format!("an integer from {least}"),
        (_, Value::Number(most)) => format!("an integer up to {most}"),
        _ => "an integer".to_owned(),
    }
}

/// Composes the message about a value of a type that the field does not have.
pub(super) fn wrong_type(expected: &str, value: &Value) -> String {
    format!("expected {expected}, got {}", type_name(value))
}

/// Composes the message about a value that the schema does not permit.
pub(super) fn wrong_value(schema: &Value, value: &Value) -> String {
    let words = expected(schema).unwrap_or_else(|| "another value".to_owned());
    match value {
        Value::String(text) => format!("{:?}: expected {words}", shorten(text)),
        Value::Number(_) | Value::Bool(_) => format!("{value}: expected {words}"),
        other => wrong_type(&words, other),
    }
}

/// Composes the message about a missing field.
pub(super) fn required(schema: &Value) -> String {
    format!("is required{}", such_as(schema))
}

fn such_as(schema: &Value) -> String {
    match &schema["example"] {
        Value::Null => String::new(),
        example => format!(", such as {example}"),
    }
}

/// Keyword of a schema that a value violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation<'a> {
    /// `type`.
    Type,
    /// `enum`, `minimum` or `maximum`.
    Value,
    /// `pattern`, with the regular expression.
    Pattern(&'a str),
    /// `maxLength`, with the limit in characters.
    MaxLength(usize),
    /// `minLength`, with the limit in characters.
    MinLength(usize),
    /// `maxItems`, with the limit.
    MaxItems(usize),
    /// `minItems`, with the limit.
    MinItems(usize),
}

/// Composes the message about a value.
pub(super) fn mismatch(
    violation: Violation<'_>,
    schema: &Value,
    value: &Value,
    words: Words,
) -> String {
    match violation {
        Violation::Type if words.is_text => wrong_value(schema, value),
        Violation::Type if value.is_number() && has_type(schema, "integer") => {
            wrong_value(schema, value)
        }
        Violation::Type => wrong_type(&expected(schema).unwrap_or_default(), value),
        Violation::Pattern(pattern) if !has_phrase(schema) => {
            let text = shorten(value.as_str().unwrap_or_default());
            format!("{text:?}: expected a string that matches {pattern}")
        }
        Violation::Value | Violation::Pattern(_) => wrong_value(schema, value),
        Violation::MaxLength(limit) => format!("expected at most {}", count(limit, "character")),
        Violation::MinLength(limit) => format!("expected at least {}", count(limit, "character")),
        Violation::MaxItems(limit) => format!("expected at most {}", count(limit, "item")),
        Violation::MinItems(limit) => {
            format!("expected at least {}{}", count(limit, "item"), such_as(schema))
        }
    }
}

/// Reports whether a schema permits a type.
pub(super) fn has_type(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::Array(types) => types.iter().any(|one| one == name),
        one => one == name,
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
