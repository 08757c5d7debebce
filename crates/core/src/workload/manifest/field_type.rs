//! Types of the fields that are read, for messages about values of another type.

use serde_json::Value;

use super::{
    path::{FieldPath, Step},
    problem::{DocumentError, TEXT},
};

/// Longest text quoted in a message, in characters.
const MAX_QUOTED: usize = 60;

/// Returns the error for the value at `path` of an object, which has another type than its field.
pub(super) fn wrong_type(object: &Value, path: &FieldPath) -> DocumentError {
    let at = path.0.iter().try_fold(object, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    });
    DocumentError::WrongType {
        expected: expected_type(&path.0),
        found: at.map_or_else(|| "another value".to_owned(), describe),
    }
}

fn expected_type(path: &[Step]) -> &'static str {
    match path {
        [.., Step::Key(list), Step::Index(_), Step::Key(key)]
            if list == "volumes" && key == "image" =>
        {
            "an object"
        }
        [.., Step::Key(key)] => match key.as_str() {
            "metadata" | "spec" | "template" | "jobTemplate" | "affinity" | "nodeAffinity"
            | "os" | "selector" | "matchLabels" => "an object",
            "annotations" | "labels" | "nodeSelector" => "an object with texts",
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "tolerations"
            | "imagePullSecrets"
            | "ownerReferences" => "a list",
            "controller" => "true or false",
            "tolerationSeconds" => "a number",
            "requiredDuringSchedulingIgnoredDuringExecution" => {
                "a node selector of at most 65,536 bytes with nodeSelectorTerms"
            }
            _ => TEXT,
        },
        [.., Step::Index(_)] | [] => "an object",
    }
}

/// Describes a value in a message.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => {
            let shown: String = text.chars().take(MAX_QUOTED).collect();
            format!("the text {shown:?}")
        }
        Value::Array(_) | Value::Object(_) => kind_of(value).into(),
    }
}

/// Returns the name of a value's type.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => TEXT,
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
