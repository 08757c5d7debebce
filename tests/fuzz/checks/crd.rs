//! The rules of a custom resource definition, as the API server checks them.

use serde_json::Value;

/// Returns the problems of a value that is stored under this schema: path and keyword. Rules in CEL
/// are not evaluated.
pub(super) fn problems(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if value.is_null() {
        let nullable = schema["nullable"] == true;
        return if nullable { Vec::new() } else { vec![format!("{at}: null")] };
    }
    let mut found = Vec::new();
    let mut check = |good: bool, keyword: &str| {
        if !good {
            found.push(format!("{at}: {keyword}: {value}"));
        }
    };
    check(has_type(schema, value), "type");
    let bound = |keyword: &str| schema[keyword].as_f64();
    if let Some(allowed) = schema["enum"].as_array() {
        check(allowed.contains(value), "enum");
    }
    if let Some(number) = value.as_f64() {
        check(bound("minimum").is_none_or(|least| number >= least), "minimum");
        check(bound("maximum").is_none_or(|most| number <= most), "maximum");
    }
    let size = |value: &Value| match value {
        Value::String(text) => (text.chars().count(), "minLength", "maxLength"),
        Value::Array(items) => (items.len(), "minItems", "maxItems"),
        Value::Object(fields) => (fields.len(), "minProperties", "maxProperties"),
        _ => (0, "", ""),
    };
    let (size, least, most) = size(value);
    let limit =
        |keyword: &str| schema[keyword].as_u64().and_then(|limit| usize::try_from(limit).ok());
    check(limit(least).is_none_or(|least| size >= least), least);
    check(limit(most).is_none_or(|most| size <= most), most);
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        check(value.get(name).is_some(), "required");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(problems(&schema["items"], item, &format!("{at}[{index}]")));
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let own = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        match own {
            Some(own) => found.extend(problems(own, field, &format!("{at}.{name}"))),
            None => found.push(format!("{at}.{name}: unknown field")),
        }
    }
    found
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    }
}
