//! `/docs`: the `OpenAPI` document as one page, with nothing from elsewhere.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use serde_json::Value;

use super::{
    openapi::{ERRORS, LATER, document},
    still::Still,
};

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #1a6fb5; }
@media (prefers-color-scheme: dark) { :root { --accent: #6db3f2; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: 0 1rem; }
summary { cursor: pointer; padding: .6rem 0; }
summary b { display: inline-block; min-width: 4.2rem; color: var(--accent); }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; margin: .8rem 0; }
td, th { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); }
a { color: var(--accent); }
";

/// Nothing is loaded, nothing runs, nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";

pub(super) async fn page(headers: HeaderMap) -> Response {
    static PAGE: LazyLock<Still> = LazyLock::new(|| Still::new("text/html; charset=utf-8", render(&document())));
    let mut response = PAGE.answer(&headers);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Text of doc comments: what stands in backticks is code.
fn prose(text: &str) -> String {
    let escaped = escape(text);
    let parts = escaped.split('`').enumerate();
    parts
        .map(|(index, part)| if index % 2 == 1 { format!("<code>{part}</code>") } else { part.replace("\n\n", "<br>") })
        .collect()
}

fn render(document: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Prewarmer API</title><style>{STYLE}</style><h1>Prewarmer API</h1><p>{} Version {}. \
         The same for programs: <a href=\"/api/v1/openapi.json\">openapi.json</a>.</p>\
         <p>Examples want two variables: <code>API</code>, such as <code>https://HOST:8080/api/v1</code>, and \
         <code>TOKEN</code>: a token of Kubernetes (<code>kubectl create token NAME --audience prewarmer</code>, or whatever \
         <code>--token-audience</code> of the server says) or one that \
         <code>prewarmer token create</code> has made. Lists and tasks come from memory: <code>Age</code> says how many \
         seconds ago the cluster was last heard of.</p>",
        prose(text(&document["info"], "description")),
        escape(text(&document["info"], "version")),
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        // Writing to a text does not fail.
        let _ = write!(out, "<h2>{}</h2><p>{}</p>", escape(text(tag, "name")), prose(text(tag, "description")));
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, call) in methods.as_object().into_iter().flatten() {
                if call["tags"][0] == tag["name"] {
                    out += &render_call(path, method, call);
                }
            }
        }
    }
    out += "<h2>errors</h2><p>Any call may be answered by one of these, with <a href=\"#ErrorBody\">ErrorBody</a>.</p>\
            <table><tr><th>answer<th>meaning";
    for (code, meaning) in ERRORS.iter().chain([&LATER]) {
        let _ = write!(out, "<tr><td>{code}<td>{}", prose(meaning));
    }
    out += "</table><h2>shapes</h2>";
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let _ = write!(
            out,
            "<details><summary><code>{0}</code></summary><a id=\"{0}\"></a>{1}</details>",
            escape(name),
            fields(schema)
        );
    }
    out
}

fn render_call(path: &str, method: &str, call: &Value) -> String {
    let mut out = format!(
        "<details><summary><b>{}</b> <code>{}</code> {}</summary><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        prose(text(call, "summary")),
        prose(text(call, "description")),
    );
    let _ = write!(out, "<pre>{}</pre>", escape(text(&call["x-codeSamples"][0], "source")));
    let parameters: Vec<String> = call["parameters"].as_array().into_iter().flatten().map(parameter).collect();
    if !parameters.is_empty() {
        let _ = write!(out, "<table><tr><th>parameter<th>in<th>meaning{}</table>", parameters.concat());
    }
    if let Some(kind) = call["requestBody"]["content"].as_object().and_then(|kinds| kinds.values().next()) {
        let _ = write!(out, "<p>Body: {}</p>", shape(&kind["schema"]));
    }
    out += "<table><tr><th>answer<th>meaning<th>body";
    // Errors are the same everywhere, and stand at the end.
    let answers = call["responses"].as_object().into_iter().flatten();
    for (code, answer) in answers.filter(|(code, _)| code.as_str() < "400") {
        let kind = answer["content"].as_object().and_then(|kinds| kinds.values().next());
        let body = kind.map_or_else(String::new, |kind| shape(&kind["schema"]));
        let _ = write!(out, "<tr><td>{}<td>{}<td>{body}", escape(code), prose(text(answer, "description")));
    }
    out + "</table></details>"
}

fn parameter(parameter: &Value) -> String {
    let meaning = prose(text(parameter, "description"));
    format!(
        "<tr><td><code>{}</code><td>{}<td>{meaning}",
        escape(text(parameter, "name")),
        escape(text(parameter, "in"))
    )
}

/// The name of a shape, as a link to it; of others, what it is.
fn shape(schema: &Value) -> String {
    if let Some(name) = text(schema, "$ref").rsplit('/').next().filter(|name| !name.is_empty()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    if let Some(one) = schema["oneOf"].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null")) {
        return shape(one);
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        _ => String::new(),
    };
    if kind == "array" { format!("list of {}", shape(&schema["items"])) } else { escape(&kind) }
}

fn fields(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return format!("<p>One of <code>{}</code></p>", escape(&words.join(", ")));
    }
    let needed: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let row = |(name, field): (&String, &Value)| {
        let star = if needed.contains(&name.as_str()) { " *" } else { "" };
        format!(
            "<tr><td><code>{}</code>{star}<td>{}<td>{}",
            escape(name),
            shape(field),
            prose(text(field, "description"))
        )
    };
    let rows: String = schema["properties"].as_object().into_iter().flatten().map(row).collect();
    format!("<p>{}</p><table><tr><th>field<th>type<th>meaning{rows}</table>", prose(text(schema, "description")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_call_and_loads_nothing() {
        let document = document();
        let page = render(&document);
        for path in document["paths"].as_object().unwrap().keys() {
            assert!(page.contains(&escape(path)), "{path}");
        }
        assert!(!page.contains("src=") && !page.contains("<script") && !page.contains("http://"), "it loads something");
        assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(prose("a <b> `c & d`"), "a &lt;b&gt; <code>c &amp; d</code>");
    }
}
