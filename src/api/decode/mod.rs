//! Decoding of JSON with every problem: the value is validated against the schema of its type, and
//! what is valid of it is decoded by serde. Pure: no client, no clock, no I/O.

mod message;
mod problems;
mod schema;

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use self::schema::Effect;
#[cfg(test)]
pub(super) use self::schema::KEYWORDS;
pub(super) use self::{message::EXPECTED, problems::Problems, schema::TypeSchema};
use super::field_path::{FieldPath, escape_token, unescape_token};

/// Largest integer up to which a floating-point number is exact: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
/// Largest number of parts that are left out because only serde detects that they are invalid:
/// those of types of Kubernetes, whose schema is not part of the document.
const MAX_ATTEMPTS: usize = 20;

/// Decodes a value and returns all problems. With problems, the parts that have them are absent
/// from the decoded value, so that the remaining parts can be checked too. `None` when nothing can
/// be decoded.
pub(super) fn decode<T: DeserializeOwned>(
    schema: &TypeSchema,
    mut value: Value,
) -> (Option<T>, Problems) {
    convert_whole_numbers(&mut value);
    let mismatches = schema.mismatches(&value);
    let mut problems = Problems::default();
    for one in &mismatches {
        let path = FieldPath::from_pointer(&one.pointer, &value);
        problems.push(&path, one.message.clone(), one.effect == Effect::Lacking);
    }
    let excluded = mismatches.iter().filter(|one| one.effect != Effect::None);
    let excluded: Vec<&str> = excluded.map(|one| one.pointer.as_str()).collect();
    if excluded.contains(&"") {
        return (None, problems);
    }
    remove_parts(&mut value, &excluded, &mut problems);
    for _ in 0..MAX_ATTEMPTS {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(decoded) => return (Some(decoded), problems),
            Err(error) => error,
        };
        let pointer = pointer_of(error.path());
        let path = FieldPath::from_pointer(&pointer, &value);
        problems.add_undecodable(path, message::shorten(&error.inner().to_string()));
        if pointer.is_empty() {
            break;
        }
        remove_parts(&mut value, &[&pointer], &mut problems);
    }
    (None, problems)
}

fn pointer_of(path: &serde_path_to_error::Path) -> String {
    let tokens = path.iter().map_while(|segment| match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", escape_token(key))),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    tokens.collect()
}

/// Converts numbers without a fraction to integers. `5.0` is an integer in JSON schema, but not for
/// serde.
fn convert_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= MAX_EXACT);
            #[allow(clippy::cast_possible_truncation, reason = "range and fraction were checked")]
            if let Some(whole) = exact {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(convert_whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(convert_whole_numbers),
        _ => {}
    }
}

/// Removes parts of a value: fields of objects, and elements of lists.
fn remove_parts(value: &mut Value, pointers: &[&str], problems: &mut Problems) {
    let mut elements: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for pointer in pointers {
        let Some((parent, last)) = pointer.rsplit_once('/') else { continue };
        match value.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                fields.remove(&unescape_token(last));
            }
            // The other elements keep their index until all parts are found.
            Some(Value::Array(_)) => {
                elements.entry(parent).or_default().extend(last.parse::<usize>());
            }
            _ => {}
        }
    }
    let paths = elements
        .iter()
        .flat_map(|(list, indices)| indices.iter().map(move |index| format!("{list}/{index}")));
    problems.set_removed(paths.map(|pointer| FieldPath::from_pointer(&pointer, value)));
    for (list, indices) in elements.iter().rev() {
        if let Some(Value::Array(items)) = value.pointer_mut(list) {
            let mut index = 0_usize..;
            items.retain(|_| index.next().is_none_or(|index| !indices.contains(&index)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde::Deserialize;
    use serde_json::json;
    use utoipa::ToSchema;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[schema(maximum = 10)]
        number: Option<u32>,
        texts: Option<Vec<String>>,
        inner: Option<Vec<Inner>>,
        map: Option<BTreeMap<String, String>>,
        #[schema(max_length = 3)]
        short: Option<String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        flag: Option<bool>,
        #[serde(default)]
        #[schema(required = true)]
        name: String,
    }

    static SCHEMA: LazyLock<TypeSchema> = LazyLock::new(TypeSchema::of::<Outer>);

    fn problems(value: Value) -> Vec<(String, String, String)> {
        let (decoded, problems) = decode::<Outer>(&SCHEMA, value);
        let details = problems.finish(decoded).unwrap_err().into_iter();
        let mut found: Vec<_> =
            details.map(|one| (one.field, one.pointer.unwrap_or_default(), one.message)).collect();
        found.sort();
        found
    }

    #[test]
    fn valid_value_is_decoded() {
        let value = json!({"number": 5.0, "texts": null, "inner": [{"flag": true, "name": "x"}]});
        let (decoded, problems) = decode::<Outer>(&SCHEMA, value);
        let expected = Outer {
            number: Some(5),
            inner: Some(vec![Inner { flag: Some(true), name: "x".into() }]),
            ..Outer::default()
        };
        assert_eq!(problems.finish(decoded), Ok(expected));
    }

    #[test]
    fn every_problem_has_its_pointer() {
        let value = json!({
            "number": 11,
            "texts": ["a", 1, null],
            "inner": [{"flag": 1, "name": "x"}, {"other": 1}, "y"],
            "map": {"a/b": 1, "c": null},
            "x~y": 1,
            "short": "long",
        });
        let expected = [
            ("inner[0].flag", "/inner/0/flag", "expected true or false, got a number"),
            ("inner[1].name", "/inner/1/name", "is required"),
            ("inner[1].other", "/inner/1/other", "unknown field"),
            ("inner[2]", "/inner/2", "expected an object, got a string"),
            ("map.a/b", "/map/a~1b", "expected a string, got a number"),
            ("map.c", "/map/c", "expected a string, got null"),
            ("number", "/number", "11: expected an integer from 0 to 10"),
            ("short", "/short", "expected at most 3 characters"),
            ("texts[1]", "/texts/1", "expected a string, got a number"),
            ("texts[2]", "/texts/2", "expected a string, got null"),
            ("x~y", "/x~0y", "unknown field"),
        ];
        let expected = expected.map(|(field, pointer, message)| {
            (field.to_owned(), pointer.to_owned(), message.to_owned())
        });
        assert_eq!(problems(value), expected);
    }

    #[test]
    fn parts_without_problems_are_decoded() {
        let value = json!({"texts": [1, "a", 2, "b"], "inner": [5, {"name": 5}], "short": "long",
            "number": -1, "other": {}});
        let (decoded, mut problems) = decode::<Outer>(&SCHEMA, value);
        let expected = Outer {
            texts: Some(vec!["a".into(), "b".into()]),
            inner: Some(vec![Inner::default()]),
            short: Some("long".into()),
            ..Outer::default()
        };
        assert_eq!(decoded, Some(expected));
        problems.add("texts[1]", "is bad");
        let details = problems.finish(decoded).unwrap_err();
        let last = details.last().unwrap();
        assert_eq!((last.field.as_str(), last.pointer.as_deref()), ("texts[3]", Some("/texts/3")));
    }

    #[test]
    fn other_types_than_objects_are_rejected() {
        for (value, got) in [(json!([]), "a list"), (json!(null), "null"), (json!(1), "a number")] {
            let expected = (String::new(), String::new(), format!("expected an object, got {got}"));
            assert_eq!(problems(value), [expected]);
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "x".repeat(100_000);
        let found = problems(json!({"short": long, "map": {long.clone(): 1}, long.clone(): 1}));
        assert_eq!(found.len(), 3);
        for (field, pointer, message) in found {
            assert!(field.len() < 500 && pointer.len() < 500 && message.len() < 300, "{field}");
        }
    }
}
