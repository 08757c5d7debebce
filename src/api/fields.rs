//! Reads JSON objects field by field, so that every mistake is told at once. *Pure.*

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::error::Detail;

/// The fields of an object that were not read yet, and what was wrong with those that were.
pub(super) struct Fields {
    at: String,
    left: Map<String, Value>,
    /// What was wrong.
    pub(super) problems: Vec<Detail>,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Fields {
    /// The fields of a body.
    pub(super) fn of(body: Value) -> Result<Self, Detail> {
        Self::within("", body)
    }

    fn within(at: &str, value: Value) -> Result<Self, Detail> {
        match value {
            Value::Object(left) => Ok(Self { at: at.into(), left, problems: Vec::new() }),
            other => {
                Err(Detail { field: at.into(), message: format!("expected an object, and found {}", kind(&other)) })
            }
        }
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.into() } else { format!("{}.{name}", self.at) }
    }

    /// Says what is wrong with a field.
    pub(super) fn wrong(&mut self, name: &str, message: impl Into<String>) {
        let field = self.path(name);
        self.problems.push(Detail { field, message: message.into() });
    }

    /// The field, unless it is absent or null.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn unexpected(&mut self, name: &str, expected: &str, found: &Value) {
        self.wrong(name, format!("expected {expected}, and found {}", kind(found)));
    }

    /// Whether the field is there, and is not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.left.get(name).is_some_and(|value| !value.is_null())
    }

    /// Any value.
    pub(super) fn any(&mut self, name: &str) -> Option<Value> {
        self.take(name)
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => {
                self.unexpected(name, "a text", &other);
                None
            }
        }
    }

    /// A text of at most so many characters.
    pub(super) fn short(&mut self, name: &str, most: usize) -> Option<String> {
        let text = self.text(name)?;
        if text.chars().count() > most {
            self.wrong(name, format!("expected at most {most} characters"));
        }
        Some(text)
    }

    /// A text that must be there.
    pub(super) fn needed(&mut self, name: &str) -> String {
        if self.left.get(name).is_none_or(Value::is_null) {
            self.wrong(name, "is needed");
        }
        self.text(name).unwrap_or_default()
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.take(name)?;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match whole_number(&value) {
            Some(number) if range.contains(&number) => return Some(number),
            _ if value.is_number() => self.wrong(name, format!("{value}: expected {expected}")),
            _ => self.unexpected(name, &expected, &value),
        }
        None
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => Some(flag),
            other => {
                self.unexpected(name, "true or false", &other);
                None
            }
        }
    }

    /// A list.
    pub(super) fn list(&mut self, name: &str) -> Option<Vec<Value>> {
        match self.take(name)? {
            Value::Array(items) => Some(items),
            other => {
                self.unexpected(name, "a list", &other);
                None
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let mut texts = Vec::new();
        for (index, item) in self.list(name)?.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => self.unexpected(&format!("{name}[{index}]"), "a text", &other),
            }
        }
        Some(texts)
    }

    /// An object of texts.
    pub(super) fn map(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let value = self.take(name)?;
        let Value::Object(fields) = value else {
            self.unexpected(name, "an object", &value);
            return None;
        };
        let mut texts = BTreeMap::new();
        for (key, value) in fields {
            match value {
                Value::String(text) => {
                    texts.insert(key, text);
                }
                other => self.unexpected(&format!("{name}.{key}"), "a text", &other),
            }
        }
        Some(texts)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
            self.wrong(name, format!("{text:?}: expected one of {all}"));
        }
        found.map(|(_, value)| *value)
    }

    /// A value of that type.
    pub(super) fn typed<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.take(name)?;
        serde_json::from_value(value).map_err(|error| self.wrong(name, error.to_string())).ok()
    }

    /// An object within; what was wrong with it is to be brought back by [`Self::done`].
    pub(super) fn object(&mut self, name: &str) -> Option<Self> {
        let value = self.take(name)?;
        Self::within(&self.path(name), value).map_err(|detail| self.problems.push(detail)).ok()
    }

    /// All that was wrong; a field that nobody has asked for is.
    pub(super) fn done(mut self) -> Vec<Detail> {
        for name in self.left.keys().cloned().collect::<Vec<_>>() {
            self.wrong(&name, "there is no such field");
        }
        self.problems
    }
}

/// A number without a fraction; `5.0` is one: in JSON there is one kind of numbers only.
pub(super) fn whole_number(value: &Value) -> Option<u32> {
    if let Some(number) = value.as_u64() {
        return u32::try_from(number).ok();
    }
    let number = value.as_f64()?;
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was just looked at")]
    fits.then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_is_wrong_is_told() {
        let mut fields = Fields::of(json!({
            "a": 1, "b": [1, "x"], "c": {"k": 2}, "d": "blue", "e": 11, "f": 1.5, "g": null, "h": 5.0, "extra": 1, "o": {"z": 1},
        }))
        .unwrap();
        assert_eq!(fields.text("a"), None);
        assert_eq!(fields.texts("b"), Some(vec!["x".into()]));
        assert_eq!(fields.map("c"), Some(BTreeMap::new()));
        assert_eq!(fields.choice("d", &[("Red", 1)]), None);
        assert_eq!(
            (fields.number("e", 1..=10), fields.number("f", 1..=10), fields.number("h", 1..=10)),
            (None, None, Some(5))
        );
        assert_eq!(fields.flag("g"), None);
        assert_eq!(fields.needed("missing"), "");
        let inner = fields.object("o").unwrap();
        fields.problems.extend(inner.done());
        let wrong: Vec<String> = fields.done().into_iter().map(|detail| detail.field).collect();
        assert_eq!(wrong, ["a", "b[0]", "c.k", "d", "e", "f", "missing", "o.z", "extra"]);
        assert!(Fields::of(json!([])).is_err());
    }
}
