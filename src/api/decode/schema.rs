//! Validation of JSON against the schema of its type in the `OpenAPI` document. Pure: no client, no
//! clock, no I/O.
//!
//! Only the keywords of JSON schema that the types of this server use are known (`KEYWORDS`); a test
//! fails when a type has another one.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value, json};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{RefOr, schema::Schema},
};

use super::message::{self, EXPECTED, Violation, Words};
use crate::api::field_path::escape_token;

/// Keywords that are validated, then those that validate nothing.
#[cfg(test)]
pub(in crate::api) const KEYWORDS: [&str; 23] = [
    "$ref",
    "additionalProperties",
    "enum",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "type",
    "components",
    "default",
    "description",
    "example",
    "format",
    // The names of properties in JSON are strings.
    "propertyNames",
    "title",
    EXPECTED,
];
/// Largest number of references that are followed for one value.
const MAX_REFERENCES: usize = 8;

/// Schema of a type, with its patterns compiled.
#[derive(Debug)]
pub(in crate::api) struct TypeSchema {
    /// Document in which the schema and those that it refers to are at the same place as in the
    /// `OpenAPI` document.
    document: Value,
    /// Regular expressions of all keywords `pattern`. They take linear time.
    patterns: BTreeMap<String, Regex>,
    /// Defect of the type's attributes, which a test finds.
    defect: Option<String>,
    words: Words,
}

/// Part of a value that does not match the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// JSON pointer to the part.
    pub(super) pointer: String,
    /// Expected value.
    pub(super) message: String,
    /// Effect on the decoded value.
    pub(super) effect: Effect,
    /// True when the value has a type that the schema does not permit.
    is_type: bool,
}

/// Effect of a mismatch on the decoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The part is decoded, because it has the type of its field.
    None,
    /// The decoded value lacks the part.
    Lacking,
    /// The part belongs to no field.
    Ignored,
}

/// Place of a value in the one that contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Field of an object, for which null stands for an absent one.
    Field,
    /// Entire value, list element, or value of a map.
    Other,
}

impl TypeSchema {
    /// Compiles the schema of a type.
    pub(in crate::api) fn of<T: ToSchema>() -> Self {
        let mut schemas: Vec<(String, RefOr<Schema>)> = Vec::new();
        T::schemas(&mut schemas);
        schemas.push((T::name().into_owned(), T::schema()));
        let schemas: BTreeMap<String, RefOr<Schema>> = schemas.into_iter().collect();
        let document = json!({
            "$ref": format!("#/components/schemas/{}", T::name()),
            "components": {"schemas": schemas},
        });
        Self::compile(document, Words::BODY)
    }

    /// Compiles the schemas of query parameters, as that of an object. `expected` are the values of
    /// parameters in words, by name.
    pub(in crate::api) fn of_params<T: IntoParams>(expected: &[(&str, &str)]) -> Self {
        let params = T::into_params(|| None).into_iter();
        let schemas: BTreeMap<_, _> = params.map(|param| (param.name, param.schema)).collect();
        let mut document = json!({"properties": schemas, "additionalProperties": false});
        for (name, words) in expected {
            if let Some(Value::Object(schema)) = document["properties"].get_mut(*name) {
                schema.insert(EXPECTED.to_owned(), Value::from(*words));
            }
        }
        Self::compile(document, Words::QUERY)
    }

    /// Returns the document, with the schemas below `/components/schemas`.
    #[cfg(test)]
    pub(in crate::api) fn document(&self) -> &Value {
        &self.document
    }

    /// Reports whether the schema has a property.
    pub(in crate::api) fn has_property(&self, name: &str) -> bool {
        self.document["properties"].get(name).is_some()
    }

    /// Converts the text of a query parameter to the type of its schema. `None` for the empty text
    /// of a known parameter, which counts as absent; a text of another type is returned as it is.
    pub(in crate::api) fn parse_param(&self, name: &str, text: &str) -> Option<Value> {
        let schema = &self.document["properties"][name];
        let parsed = if message::has_type(schema, "integer") {
            text.parse::<i64>().ok().map(Value::from)
        } else if message::has_type(schema, "boolean") {
            text.parse::<bool>().ok().map(Value::from)
        } else if text.is_empty() && self.has_property(name) {
            return None;
        } else {
            None
        };
        Some(parsed.unwrap_or_else(|| Value::from(text)))
    }

    /// Compiles the patterns of a schema.
    fn compile(document: Value, words: Words) -> Self {
        let (mut patterns, mut defect) = (BTreeMap::new(), None);
        for pattern in patterns_of(&document) {
            match Regex::new(pattern) {
                Ok(compiled) => drop(patterns.insert(pattern.to_owned(), compiled)),
                Err(error) => defect = Some(format!("pattern {pattern}: {error}")),
            }
        }
        Self { document, patterns, defect, words }
    }

    /// Returns every mismatch of a value.
    pub(super) fn mismatches(&self, value: &Value) -> Vec<Mismatch> {
        let mut found = Found::default();
        if let Some(defect) = &self.defect {
            found.add("", format!("it has no valid schema: {defect}"), Effect::Lacking);
        } else {
            self.validate(&self.document, value, "", Place::Other, &mut found);
        }
        found.0
    }

    /// Adds the mismatches of the value at the JSON pointer `at`. The depth of the recursion is that
    /// of the value, which is bounded where it is parsed.
    fn validate(&self, schema: &Value, value: &Value, at: &str, place: Place, found: &mut Found) {
        let schema = self.resolve(schema);
        if let Some(alternatives) = schema["oneOf"].as_array() {
            return self.validate_alternatives(schema, alternatives, value, at, place, found);
        }
        if !is_permitted_type(schema, value) {
            if value.is_null() && place == Place::Field {
                found.add(at, message::required(schema), Effect::Lacking);
            } else {
                let text = message::mismatch(Violation::Type, schema, value, self.words);
                found.add_type(at, text);
            }
            return;
        }
        if let Some((violation, effect)) = self.violation(schema, value) {
            found.add(at, message::mismatch(violation, schema, value, self.words), effect);
        }
        match value {
            Value::Object(fields) => self.validate_object(schema, fields, at, found),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let at = format!("{at}/{index}");
                    self.validate(&schema["items"], item, &at, Place::Other, found);
                }
            }
            _ => {}
        }
    }

    /// Follows references to other schemas of the document.
    fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = schema["$ref"].as_str() else { break };
            let pointer = reference.strip_prefix('#').unwrap_or(reference);
            schema = self.document.pointer(pointer).unwrap_or(&Value::Null);
        }
        schema
    }

    fn validate_object(
        &self,
        schema: &Value,
        fields: &Map<String, Value>,
        at: &str,
        found: &mut Found,
    ) {
        let (properties, others) = (&schema["properties"], &schema["additionalProperties"]);
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                let text = message::required(self.resolve(&properties[name]));
                found.add(&member(at, name), text, Effect::Lacking);
            }
        }
        for (name, value) in fields {
            let at = member(at, name);
            if let Some(schema) = properties.get(name) {
                self.validate(schema, value, &at, Place::Field, found);
            } else if *others == Value::Bool(false) {
                found.add(&at, self.words.unknown.into(), Effect::Ignored);
            } else {
                self.validate(others, value, &at, Place::Other, found);
            }
        }
    }

    /// Adds the mismatches of the first alternative that permits the value's type, unless one
    /// matches. When none permits it, adds one with the types of all.
    fn validate_alternatives(
        &self,
        schema: &Value,
        alternatives: &[Value],
        value: &Value,
        at: &str,
        place: Place,
        found: &mut Found,
    ) {
        let mut of_type = None;
        for alternative in alternatives {
            let mut mismatches = Found::default();
            self.validate(alternative, value, at, place, &mut mismatches);
            if mismatches.0.is_empty() {
                return;
            }
            if !mismatches.0.iter().any(|one| one.is_type && one.pointer == at) {
                of_type.get_or_insert(mismatches.0);
            }
        }
        if message::has_phrase(schema) {
            found.add(at, message::wrong_value(schema, value), Effect::Lacking);
        } else if let Some(mismatches) = of_type {
            found.0.extend(mismatches);
        } else {
            let expected = alternatives.iter().map(|one| self.resolve(one));
            let expected: Vec<String> = expected.filter_map(message::expected).collect();
            found.add_type(at, message::wrong_type(&expected.join(" or "), value));
        }
    }

    /// Returns the first keyword about a value of the right type that it violates.
    fn violation<'a>(&self, schema: &'a Value, value: &Value) -> Option<(Violation<'a>, Effect)> {
        let exceeds =
            |keyword: &str, size: usize| limit(schema, keyword).filter(|most| size > *most);
        let lacks =
            |keyword: &str, size: usize| limit(schema, keyword).filter(|least| size < *least);
        if schema["enum"].as_array().is_some_and(|permitted| !permitted.contains(value)) {
            return Some((Violation::Value, Effect::Lacking));
        }
        let violation = match value {
            Value::Number(number) => {
                let (number, bound) = (number.as_f64(), |name: &str| schema[name].as_f64());
                let is_less = bound("minimum").is_some_and(|least| number < Some(least));
                let is_more = bound("maximum").is_some_and(|most| number > Some(most));
                return (is_less || is_more).then_some((Violation::Value, Effect::Lacking));
            }
            Value::String(text) => {
                let length = text.chars().count();
                if let Some(most) = exceeds("maxLength", length) {
                    Violation::MaxLength(most)
                } else if let Some(least) = lacks("minLength", length) {
                    Violation::MinLength(least)
                } else {
                    let pattern = schema["pattern"].as_str()?;
                    let is_match = self.patterns.get(pattern)?.is_match(text);
                    return (!is_match).then_some((Violation::Pattern(pattern), Effect::None));
                }
            }
            Value::Array(items) => match exceeds("maxItems", items.len()) {
                Some(most) => Violation::MaxItems(most),
                None => Violation::MinItems(lacks("minItems", items.len())?),
            },
            _ => return None,
        };
        Some((violation, Effect::None))
    }
}

/// Mismatches that were found.
#[derive(Debug, Default)]
struct Found(Vec<Mismatch>);

impl Found {
    fn add(&mut self, pointer: &str, message: String, effect: Effect) {
        self.0.push(Mismatch { pointer: pointer.to_owned(), message, effect, is_type: false });
    }

    fn add_type(&mut self, pointer: &str, message: String) {
        let (pointer, effect) = (pointer.to_owned(), Effect::Lacking);
        self.0.push(Mismatch { pointer, message, effect, is_type: true });
    }
}

fn limit(schema: &Value, keyword: &str) -> Option<usize> {
    schema[keyword].as_u64()?.try_into().ok()
}

/// Reports whether the keyword `type` of a schema permits a value. An absent one permits every
/// value. Numbers without a fraction are integers, as [`super::decode`] converts them.
fn is_permitted_type(schema: &Value, value: &Value) -> bool {
    let permits = |name| message::has_type(schema, name);
    schema["type"].is_null()
        || match value {
            Value::Null => permits("null"),
            Value::Bool(_) => permits("boolean"),
            Value::Number(number) => permits("number") || !number.is_f64() && permits("integer"),
            Value::String(_) => permits("string"),
            Value::Array(_) => permits("array"),
            Value::Object(_) => permits("object"),
        }
}

/// Returns the keywords `pattern` of a schema and of its parts.
fn patterns_of(schema: &Value) -> Vec<&str> {
    match schema {
        Value::Array(items) => items.iter().flat_map(patterns_of).collect(),
        Value::Object(fields) => {
            let own = fields.get("pattern").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(patterns_of)).collect()
        }
        _ => Vec::new(),
    }
}

fn member(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", escape_token(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mismatches of a value, as pointer and message.
    fn mismatches(schema: Value, value: &Value) -> Vec<(String, String)> {
        let schema = TypeSchema::compile(schema, Words::BODY);
        let found = schema.mismatches(value).into_iter();
        found.map(|one| (one.pointer, one.message)).collect()
    }

    fn one(schema: Value, value: &Value) -> String {
        let mut found = mismatches(schema, value);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0).1
    }

    #[test]
    fn mismatch_states_what_is_expected() {
        let integer = json!({"type": ["integer", "null"], "minimum": 1, "maximum": 10});
        assert_eq!(one(integer.clone(), &json!(11)), "11: expected an integer from 1 to 10");
        assert_eq!(one(integer.clone(), &json!(1.5)), "1.5: expected an integer from 1 to 10");
        assert_eq!(one(integer, &json!("x")), "expected an integer from 1 to 10, got a string");
        assert_eq!(one(json!({"type": "integer"}), &json!([])), "expected an integer, got a list");
        assert_eq!(
            one(json!({"type": "boolean"}), &json!(1)),
            "expected true or false, got a number"
        );
        assert_eq!(one(json!({"type": "array"}), &json!({})), "expected a list, got an object");
        let words = json!({"type": "string", "enum": ["skip", "allow"]});
        assert_eq!(one(words.clone(), &json!("no")), "\"no\": expected one of skip, allow");
        assert_eq!(one(words, &json!(1)), "expected one of skip, allow, got a number");
        let lengths = json!({"maxLength": 2});
        assert_eq!(one(lengths, &json!("abc")), "expected at most 2 characters");
        assert_eq!(one(json!({"maxItems": 1}), &json!([1, 2])), "expected at most 1 item");
        assert_eq!(
            one(json!({"minItems": 1, "example": ["a"]}), &json!([])),
            "expected at least 1 item, such as [\"a\"]"
        );
        assert_eq!(
            one(json!({"pattern": "^a$"}), &json!("b")),
            "\"b\": expected a string that matches ^a$"
        );
        assert_eq!(
            one(json!({"pattern": "^a$", "x-expected": "the letter a"}), &json!("b")),
            "\"b\": expected the letter a"
        );
    }

    #[test]
    fn null_is_an_absent_field_but_no_element() {
        let schema = json!({
            "$ref": "#/components/schemas/T",
            "components": {"schemas": {
                "T": {"type": "object", "required": ["a", "b", "c"], "properties": {
                    "a": {"type": "string", "example": "x"},
                    "b": {"$ref": "#/components/schemas/U"},
                    "c": {"type": "array", "items": {"type": "string"}},
                    "d": {"type": "object", "additionalProperties": {"type": "string"}},
                }},
                "U": {"type": "object"},
            }},
        });
        let value = json!({"a": null, "b": null, "c": [null], "d": {"k": null}});
        assert_eq!(
            mismatches(schema.clone(), &value),
            [
                ("/a", "is required, such as \"x\""),
                ("/b", "is required"),
                ("/c/0", "expected a string, got null"),
                ("/d/k", "expected a string, got null"),
            ]
            .map(|(pointer, message)| (pointer.to_owned(), message.to_owned()))
        );
        assert_eq!(one(schema, &Value::Null), "expected an object, got null");
    }

    #[test]
    fn alternative_of_the_same_type_is_explained() {
        let schema = json!({"oneOf": [
            {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}},
             "additionalProperties": false},
            {"type": "null"},
        ]});
        let found = mismatches(schema.clone(), &json!({"x": 1}));
        let pointers: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(pointers.len(), 2, "{found:?}");
        assert!(pointers.contains(&"/k") && pointers.contains(&"/x"), "{found:?}");
        assert_eq!(one(schema, &json!([])), "expected an object, got a list");
    }

    #[test]
    fn unusable_schema_rejects_every_value() {
        let schema = json!({"properties": {"a": {"pattern": "("}}});
        assert!(one(schema, &json!(1)).starts_with("it has no valid schema: pattern (: "));
    }
}
