//! Validation of JSON against the schema of its type in the `OpenAPI` document. Pure: no client, no
//! clock, no I/O.

use std::collections::BTreeMap;

use jsonschema::{
    Draft, PatternOptions, ValidationError, Validator, error::ValidationErrorKind as Kind,
};
use serde_json::{Value, json};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{RefOr, schema::Schema},
};

use super::message::{self, EXPECTED, Words};
use crate::api::field_path::escape_token;

/// Schema of a type, compiled.
#[derive(Debug)]
pub(in crate::api) struct TypeSchema {
    /// Document in which the schema and those that it refers to are at the same place as in the
    /// `OpenAPI` document.
    document: Value,
    /// Error when the schema is not valid: a defect of the type's attributes, which a test finds.
    validator: Result<Validator, String>,
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

    /// Compiles a schema. The regular expressions take linear time.
    fn compile(document: Value, words: Words) -> Self {
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex());
        let validator = options.build(&document).map_err(|error| error.to_string());
        Self { document, validator, words }
    }

    /// Returns every mismatch of a value.
    pub(super) fn mismatches(&self, value: &Value) -> Vec<Mismatch> {
        let mut found = Vec::new();
        match &self.validator {
            Ok(validator) if validator.is_valid(value) => {}
            Ok(validator) => {
                for error in validator.iter_errors(value) {
                    self.add_error(&error, &mut found);
                }
            }
            Err(error) => {
                add(&mut found, "", format!("it has no valid schema: {error}"), Effect::Lacking);
            }
        }
        found
    }

    /// Adds the mismatches of an error. Alternatives are reduced to the one that the value was
    /// probably meant to be.
    fn add_error(&self, error: &ValidationError<'_>, found: &mut Vec<Mismatch>) {
        let at = error.instance_path().as_str();
        let (schema, value) = (self.schema_of(error), error.instance().as_ref());
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => {
                for name in unexpected {
                    add(found, &member(at, name), self.words.unknown.into(), Effect::Ignored);
                }
            }
            Kind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let text = message::required(&schema["properties"][name]);
                add(found, &member(at, name), text, Effect::Lacking);
            }
            Kind::OneOfNotValid { context } | Kind::AnyOf { context } => {
                self.add_alternatives(error, context, found);
            }
            Kind::Type { .. } if value.is_null() && is_member(error) => {
                add(found, at, message::required(schema), Effect::Lacking);
            }
            kind => {
                let text = message::mismatch(kind, schema, value, self.words);
                let text = text.unwrap_or_else(|| message::shorten(&error.masked().to_string()));
                let is_typed = message::has_type_of_field(kind);
                add(found, at, text, if is_typed { Effect::None } else { Effect::Lacking });
            }
        }
    }

    /// Adds the mismatches of the first alternative that permits the value's type. When none does,
    /// adds one with the types of all.
    fn add_alternatives(
        &self,
        error: &ValidationError<'_>,
        alternatives: &[Vec<ValidationError<'static>>],
        found: &mut Vec<Mismatch>,
    ) {
        let (at, value) = (error.instance_path(), error.instance().as_ref());
        let schema = self.schema_of(error);
        if message::has_phrase(schema) {
            let text = message::wrong_value(schema, value);
            return add(found, at.as_str(), text, Effect::Lacking);
        }
        let has_other_type = |error: &ValidationError<'_>| {
            matches!(error.kind(), Kind::Type { .. }) && error.instance_path() == at
        };
        let fitting = alternatives.iter().find(|errors| !errors.iter().any(has_other_type));
        if let Some(errors) = fitting {
            return errors.iter().for_each(|error| self.add_error(error, found));
        }
        let types = alternatives.iter().flatten().filter(|error| has_other_type(error));
        let expected: Vec<String> =
            types.filter_map(|error| message::expected(self.schema_of(error))).collect();
        let text = message::wrong_type(&expected.join(" or "), value);
        add(found, at.as_str(), text, Effect::Lacking);
    }

    /// Returns the schema whose keyword reports the error.
    fn schema_of(&self, error: &ValidationError<'_>) -> &Value {
        let path = error.schema_path().as_str();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.document.pointer(parent).unwrap_or(&Value::Null)
    }
}

/// Adds a mismatch, unless one of the same part precedes it: a value of another type also fails
/// further keywords.
fn add(found: &mut Vec<Mismatch>, pointer: &str, message: String, effect: Effect) {
    match found.last_mut().filter(|last| last.pointer == pointer) {
        Some(last) if last.effect == Effect::None => last.effect = effect,
        Some(_) => {}
        None => found.push(Mismatch { pointer: pointer.to_owned(), message, effect }),
    }
}

fn member(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", escape_token(name))
}

/// Reports whether the error is about a field of an object, and not about a list element or a value
/// of a map: null stands for an absent field.
fn is_member(error: &ValidationError<'_>) -> bool {
    let mut path = error.evaluation_path().as_str().rsplit('/').skip(1);
    let field = path.find(|keyword| *keyword != "$ref");
    field.is_some() && path.next() == Some("properties")
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
        assert!(one(json!({"type": 5}), &json!(1)).starts_with("it has no valid schema"));
    }
}
