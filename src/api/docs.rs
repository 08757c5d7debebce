//! `/docs`: the `OpenAPI` document as one HTML page that loads nothing.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use serde_json::Value;

use super::{
    openapi::{ERRORS, UNAVAILABLE, document},
    static_response::StaticResponse,
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

/// Content security policy of the page: no external resources, no scripts, no framing.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";

pub(super) async fn page(headers: HeaderMap) -> Response {
    static PAGE: LazyLock<StaticResponse> =
        LazyLock::new(|| StaticResponse::new("text/html; charset=utf-8", render(&document())));
    let mut response = PAGE.respond(&headers);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn string_field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Renders the text of a doc comment as HTML; text in backticks becomes code.
fn render_markdown(text: &str) -> String {
    let escaped = escape(text);
    let parts = escaped.split('`').enumerate();
    parts
        .map(|(index, part)| {
            if index % 2 == 1 {
                format!("<code>{part}</code>")
            } else {
                part.replace("\n\n", "<br>")
            }
        })
        .collect()
}

fn render(document: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Prewarmer API</title><style>{STYLE}</style><h1>Prewarmer API</h1><p>{} Version {}. \
         OpenAPI document: <a href=\"/api/v1/openapi.json\">openapi.json</a>.</p>\
         <p>The examples use two variables: <code>API</code>, such as <code>https://HOST:8080/api/v1</code>, and \
         <code>TOKEN</code>: a Kubernetes token (<code>kubectl create token NAME --audience prewarmer</code>, or the audience \
         set by <code>--token-audience</code> of the server) or an API token created by \
         <code>prewarmer token create</code>. Lists and tasks are served from a cache: the header <code>Age</code> states \
         for how many seconds its watch has been interrupted.</p>",
        render_markdown(string_field(&document["info"], "description")),
        escape(string_field(&document["info"], "version")),
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        // Writing to a String does not fail.
        let _ = write!(
            out,
            "<h2>{}</h2><p>{}</p>",
            escape(string_field(tag, "name")),
            render_markdown(string_field(tag, "description"))
        );
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, call) in methods.as_object().into_iter().flatten() {
                if call["tags"][0] == tag["name"] {
                    out += &render_call(path, method, call);
                }
            }
        }
    }
    out += "<h2>errors</h2><p>Any call may return one of these errors, with the body <a href=\"#ErrorBody\">ErrorBody</a>.</p>\
            <table><tr><th>status<th>meaning";
    for (code, meaning) in ERRORS.iter().chain([&UNAVAILABLE]) {
        let _ = write!(out, "<tr><td>{code}<td>{}", render_markdown(meaning));
    }
    out += "</table><h2>schemas</h2>";
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let _ = write!(
            out,
            "<details><summary><code>{0}</code></summary><a id=\"{0}\"></a>{1}</details>",
            escape(name),
            render_fields(schema)
        );
    }
    out
}

fn render_call(path: &str, method: &str, call: &Value) -> String {
    let mut out = format!(
        "<details><summary><b>{}</b> <code>{}</code> {}</summary><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        render_markdown(string_field(call, "summary")),
        render_markdown(string_field(call, "description")),
    );
    let _ = write!(out, "<pre>{}</pre>", escape(string_field(&call["x-codeSamples"][0], "source")));
    let parameters: Vec<String> =
        call["parameters"].as_array().into_iter().flatten().map(render_parameter).collect();
    if !parameters.is_empty() {
        let _ =
            write!(out, "<table><tr><th>parameter<th>in<th>meaning{}</table>", parameters.concat());
    }
    if let Some(kind) =
        call["requestBody"]["content"].as_object().and_then(|kinds| kinds.values().next())
    {
        let _ = write!(out, "<p>Body: {}</p>", render_type(&kind["schema"]));
    }
    out += "<table><tr><th>status<th>meaning<th>body";
    // Errors are the same for all calls; the page lists them once, at the end.
    let answers = call["responses"].as_object().into_iter().flatten();
    for (code, answer) in answers.filter(|(code, _)| code.as_str() < "400") {
        let kind = answer["content"].as_object().and_then(|kinds| kinds.values().next());
        let body = kind.map_or_else(String::new, |kind| render_type(&kind["schema"]));
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{body}",
            escape(code),
            render_markdown(string_field(answer, "description"))
        );
    }
    out + "</table></details>"
}

fn render_parameter(parameter: &Value) -> String {
    let meaning = render_markdown(string_field(parameter, "description"));
    format!(
        "<tr><td><code>{}</code><td>{}<td>{meaning}",
        escape(string_field(parameter, "name")),
        escape(string_field(parameter, "in"))
    )
}

/// Renders the type of a schema: a link for a named schema, otherwise the JSON type.
fn render_type(schema: &Value) -> String {
    if let Some(name) =
        string_field(schema, "$ref").rsplit('/').next().filter(|name| !name.is_empty())
    {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    if let Some(one) =
        schema["oneOf"].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null"))
    {
        return render_type(one);
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
        }
        _ => String::new(),
    };
    if kind == "array" {
        format!("list of {}", render_type(&schema["items"]))
    } else {
        escape(&kind)
    }
}

fn render_fields(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return format!("<p>One of <code>{}</code></p>", escape(&words.join(", ")));
    }
    let needed: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let row = |(name, field): (&String, &Value)| {
        let star = if needed.contains(&name.as_str()) { " *" } else { "" };
        format!(
            "<tr><td><code>{}</code>{star}<td>{}<td>{}",
            escape(name),
            render_type(field),
            render_markdown(string_field(field, "description"))
        )
    };
    let rows: String = schema["properties"].as_object().into_iter().flatten().map(row).collect();
    format!(
        "<p>{}</p><table><tr><th>field<th>type<th>meaning{rows}</table>",
        render_markdown(string_field(schema, "description"))
    )
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
        assert!(
            !page.contains("src=") && !page.contains("<script") && !page.contains("http://"),
            "it loads something"
        );
        assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    }

    #[test]
    fn html_in_text_is_escaped() {
        assert_eq!(render_markdown("a <b> `c & d`"), "a &lt;b&gt; <code>c &amp; d</code>");
    }
}
