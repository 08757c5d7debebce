//! Deserialization of a document into a JSON value, with limits. Repeated keys are recorded: the
//! last value applies, as in kubectl. The status of objects and `managedFields` are skipped.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    path::{FieldPath, Step},
    problem::DocumentError,
};

/// Maximum depth of objects and lists in a document. The schema of a large custom resource
/// definition has 40 levels. A debug build takes up to 25 KB of stack for each level, and a thread
/// of a server has 2 MiB.
pub(super) const MAX_DEPTH: usize = 64;
/// Maximum number of recorded keys that are repeated in one document.
const MAX_REPEATED_KEYS: usize = 10;
/// Text in a document that needs no further justification by the document's own size, in bytes.
const BASE_TEXT: usize = 64 * 1024;
/// Text that aliases may add to a document, as a multiple of its size.
const TEXT_FACTOR: usize = 4;

/// Returns the maximum text in a document of `size` bytes, with what aliases add, in bytes.
pub(super) fn max_text(size: usize) -> usize {
    size.saturating_mul(TEXT_FACTOR).saturating_add(BASE_TEXT)
}

/// State of the deserialization of one document: what is left of its limits, and findings.
#[derive(Debug)]
pub(super) struct ReadState {
    max_values: usize,
    values_left: usize,
    text_left: usize,
    /// Path of the value that is being deserialized; after an error, of the value that caused it.
    pub(super) path: FieldPath,
    /// Limit that was exceeded, if this is why the deserialization failed.
    pub(super) exceeded: Option<DocumentError>,
    /// Repeated keys.
    pub(super) repeated: Vec<FieldPath>,
}

impl ReadState {
    /// Creates the state for a document of `size` bytes and at most `max_values` values, keys
    /// included.
    pub(super) fn new(size: usize, max_values: usize) -> Self {
        Self {
            max_values,
            values_left: max_values,
            text_left: max_text(size),
            path: FieldPath::default(),
            exceeded: None,
            repeated: Vec::new(),
        }
    }

    fn fail<E: Error>(&mut self, limit: DocumentError) -> E {
        self.exceeded = Some(limit);
        E::custom("limit exceeded")
    }

    fn charge<E: Error>(&mut self, text: usize) -> Result<(), E> {
        let Some(values) = self.values_left.checked_sub(1) else {
            return Err(self.fail(DocumentError::TooManyValues(self.max_values)));
        };
        let Some(left) = self.text_left.checked_sub(text) else {
            return Err(self.fail(DocumentError::TooManyAliases));
        };
        (self.values_left, self.text_left) = (values, left);
        Ok(())
    }

    /// Records the current path if its last key is already among the fields of its object.
    fn record_repeated(&mut self, fields: &Map<String, Value>) {
        let repeated =
            matches!(self.path.0.last(), Some(Step::Key(key)) if fields.contains_key(key));
        if repeated && self.repeated.len() < MAX_REPEATED_KEYS {
            self.repeated.push(self.path.clone());
        }
    }

    /// Reports whether the current value is not needed: the status of an object and its
    /// `managedFields` are often most of it.
    fn is_unused(&self) -> bool {
        let of_object = |path: &[Step]| FieldPath(path.to_vec()).is_object();
        match self.path.0.as_slice() {
            [object @ .., Step::Key(key)] if key == "status" => of_object(object),
            [object @ .., Step::Key(metadata), Step::Key(key)] if key == "managedFields" => {
                metadata == "metadata" && of_object(object)
            }
            _ => false,
        }
    }
}

/// Seed for a value at the current path of the state.
pub(super) struct ValueSeed<'s>(pub(super) &'s mut ReadState);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        if self.0.path.0.len() > MAX_DEPTH {
            return Err(self.0.fail(DocumentError::TooDeep(MAX_DEPTH)));
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.0.charge(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.0.charge(0)?;
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.0.charge(0)?;
        Ok(Value::from(value))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.0.charge(0)?;
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.charge(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.0.charge(text.len())?;
        Ok(Value::String(text))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
        self.visit_str(&String::from_utf8_lossy(bytes))
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.0.charge(0)?;
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let state = self.0;
        state.charge(0)?;
        let mut items = Vec::new();
        loop {
            state.path.0.push(Step::Index(items.len()));
            let Some(item) = seq.next_element_seed(ValueSeed(state))? else { break };
            state.path.0.pop();
            items.push(item);
        }
        state.path.0.pop();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let state = self.0;
        state.charge(0)?;
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            state.charge(key.len())?;
            state.path.0.push(Step::Key(key));
            if state.is_unused() {
                map.next_value::<IgnoredAny>()?;
                state.path.0.pop();
                continue;
            }
            let value = map.next_value_seed(ValueSeed(state))?;
            state.record_repeated(&fields);
            if let Some(Step::Key(key)) = state.path.0.pop() {
                fields.insert(key, value);
            }
        }
        Ok(Value::Object(fields))
    }
}
