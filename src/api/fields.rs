//! Reader of JSON objects by field, which collects every problem instead of stopping at the first.
//! Pure: no client, no clock, no I/O.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::error::Detail;

/// Unread fields of an object, and the problems of those that were read.
pub(super) struct Fields {
    prefix: String,
    unread: Map<String, Value>,
    /// Problems found so far.
    pub(super) problems: Vec<Detail>,
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

impl Fields {
    /// Creates a reader of a body. Error when it is not an object.
    pub(super) fn from_body(body: Value) -> Result<Self, Detail> {
        Self::at_path("", body)
    }

    fn at_path(at: &str, value: Value) -> Result<Self, Detail> {
        match value {
            Value::Object(left) => {
                Ok(Self { prefix: at.into(), unread: left, problems: Vec::new() })
            }
            other => Err(Detail {
                field: at.into(),
                message: format!("expected an object, got {}", type_name(&other)),
            }),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.into() } else { format!("{}.{name}", self.prefix) }
    }

    /// Records a problem of a field.
    pub(super) fn add_problem(&mut self, name: &str, message: impl Into<String>) {
        let field = self.path(name);
        self.problems.push(Detail { field, message: message.into() });
    }

    /// Removes a field and returns it; `None` when it is absent or null.
    fn take_value(&mut self, name: &str) -> Option<Value> {
        self.unread.remove(name).filter(|value| !value.is_null())
    }

    fn add_type_problem(&mut self, name: &str, expected: &str, found: &Value) {
        self.add_problem(name, format!("expected {expected}, got {}", type_name(found)));
    }

    /// Reports whether the field is present and not null.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.unread.get(name).is_some_and(|value| !value.is_null())
    }

    /// Reads a value of any type.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.take_value(name)
    }

    /// Reads a string.
    pub(super) fn string(&mut self, name: &str) -> Option<String> {
        match self.take_value(name)? {
            Value::String(text) => Some(text),
            other => {
                self.add_type_problem(name, "a string", &other);
                None
            }
        }
    }

    /// Reads a string of at most `most` characters.
    pub(super) fn bounded_string(&mut self, name: &str, most: usize) -> Option<String> {
        let text = self.string(name)?;
        if text.chars().count() > most {
            self.add_problem(name, format!("expected at most {most} characters"));
        }
        Some(text)
    }

    /// Reads a required string; empty when it is absent.
    pub(super) fn required_string(&mut self, name: &str) -> String {
        if self.unread.get(name).is_none_or(Value::is_null) {
            self.add_problem(name, "is required");
        }
        self.string(name).unwrap_or_default()
    }

    /// Reads an integer within a range.
    pub(super) fn integer(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.take_value(name)?;
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        match as_integer(&value) {
            Some(number) if range.contains(&number) => return Some(number),
            _ if value.is_number() => {
                self.add_problem(name, format!("{value}: expected {expected}"));
            }
            _ => self.add_type_problem(name, &expected, &value),
        }
        None
    }

    /// Reads a boolean.
    pub(super) fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take_value(name)? {
            Value::Bool(flag) => Some(flag),
            other => {
                self.add_type_problem(name, "true or false", &other);
                None
            }
        }
    }

    /// Reads a list of values.
    pub(super) fn list(&mut self, name: &str) -> Option<Vec<Value>> {
        match self.take_value(name)? {
            Value::Array(items) => Some(items),
            other => {
                self.add_type_problem(name, "a list", &other);
                None
            }
        }
    }

    /// Reads a list of strings. Items of another type are left out and recorded as problems.
    pub(super) fn string_list(&mut self, name: &str) -> Option<Vec<String>> {
        let mut texts = Vec::new();
        for (index, item) in self.list(name)?.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => self.add_type_problem(&format!("{name}[{index}]"), "a string", &other),
            }
        }
        Some(texts)
    }

    /// Reads an object whose values are strings.
    pub(super) fn string_map(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let value = self.take_value(name)?;
        let Value::Object(fields) = value else {
            self.add_type_problem(name, "an object", &value);
            return None;
        };
        let mut texts = BTreeMap::new();
        for (key, value) in fields {
            match value {
                Value::String(text) => {
                    texts.insert(key, text);
                }
                other => self.add_type_problem(&format!("{name}.{key}"), "a string", &other),
            }
        }
        Some(texts)
    }

    /// Reads one of the given words, and returns its value.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.add_problem(name, format!("{text:?}: expected one of {all}"));
        }
        found.map(|(_, value)| *value)
    }

    /// Reads a value that deserializes as `T`.
    pub(super) fn deserialize<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.take_value(name)?;
        serde_json::from_value(value)
            .map_err(|error| self.add_problem(name, error.to_string()))
            .ok()
    }

    /// Reads a nested object. The caller adds the problems that its [`Self::finish`] returns to this
    /// reader.
    pub(super) fn object(&mut self, name: &str) -> Option<Self> {
        let value = self.take_value(name)?;
        Self::at_path(&self.path(name), value).map_err(|detail| self.problems.push(detail)).ok()
    }

    /// Returns all problems, including one for each field that was not read.
    pub(super) fn finish(mut self) -> Vec<Detail> {
        for name in self.unread.keys().cloned().collect::<Vec<_>>() {
            self.add_problem(&name, "unknown field");
        }
        self.problems
    }
}

/// Returns a number without a fraction as an integer. `5.0` is accepted, because JSON has only one
/// type of number.
pub(super) fn as_integer(value: &Value) -> Option<u32> {
    if let Some(number) = value.as_u64() {
        return u32::try_from(number).ok();
    }
    let number = value.as_f64()?;
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sign, range and fraction were checked above"
    )]
    fits.then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_is_collected() {
        let mut fields = Fields::from_body(json!({
            "a": 1, "b": [1, "x"], "c": {"k": 2}, "d": "blue", "e": 11, "f": 1.5, "g": null, "h": 5.0, "extra": 1, "o": {"z": 1},
        }))
        .unwrap();
        assert_eq!(fields.string("a"), None);
        assert_eq!(fields.string_list("b"), Some(vec!["x".into()]));
        assert_eq!(fields.string_map("c"), Some(BTreeMap::new()));
        assert_eq!(fields.choice("d", &[("Red", 1)]), None);
        assert_eq!(
            (fields.integer("e", 1..=10), fields.integer("f", 1..=10), fields.integer("h", 1..=10)),
            (None, None, Some(5))
        );
        assert_eq!(fields.boolean("g"), None);
        assert_eq!(fields.required_string("missing"), "");
        let inner = fields.object("o").unwrap();
        fields.problems.extend(inner.finish());
        let wrong: Vec<String> = fields.finish().into_iter().map(|detail| detail.field).collect();
        assert_eq!(wrong, ["a", "b[0]", "c.k", "d", "e", "f", "missing", "o.z", "extra"]);
        assert!(Fields::from_body(json!([])).is_err());
    }
}
