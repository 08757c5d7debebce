//! Routes of the REST API, and the `OpenAPI` document generated from them.

use std::sync::LazyLock;

use axum::{http::HeaderMap, middleware, response::Response};
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::task_view::TaskView;

use super::{
    call_middleware, cluster, error::ErrorBody, executions, extract, paths::BASE_PATH,
    samples::SAMPLES, schedules, state::RouterState, static_response::StaticResponse, tasks, watch,
};

/// Errors of calls: status and meaning. [`may_return`] selects those of each call.
pub(super) const ERRORS: [(&str, &str); 12] = [
    ("400", "Fields or parameters are invalid: each is listed in details"),
    ("401", "The token is missing or invalid"),
    ("403", "The caller lacks the permission"),
    ("404", "The object does not exist, or the caller may not read it"),
    ("405", "The path does not support this method; the header Allow lists the supported ones"),
    ("406", "The Accept header does not permit JSON"),
    ("408", "The body did not arrive in time"),
    ("409", "The request conflicts with the current state of the object, which status contains"),
    ("413", "The body is too large"),
    ("415", "The Content-Type of the body is not supported"),
    (
        "422",
        "The API server rejects the object, or the Idempotency-Key was used for a different request",
    ),
    ("429", "A rate limit or another limit is reached; Retry-After states when to try again"),
];
/// Error that every call may return when the cluster or this server is unavailable or overloaded.
pub(super) const UNAVAILABLE: (&str, &str) = (
    "503",
    "The API server does not answer, or this server is overloaded; Retry-After states when to try again",
);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prewarmer",
        description = "Pulls container images to Kubernetes nodes before the pods that need them.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ErrorBody, TaskView)),
    tags(
        (name = "tasks", description = "Images that are pulled to nodes"),
        (name = "schedules", description = "Tasks that are created by a cron schedule"),
        (name = "cluster", description = "Nodes and statistics"),
    ),
)]
struct ApiDocument;

/// Builds the routes of all calls, with their `OpenAPI` description.
pub(super) fn routes() -> OpenApiRouter<RouterState> {
    let json = OpenApiRouter::new()
        .routes(routes!(tasks::create_task, tasks::list_tasks))
        .routes(routes!(tasks::get_task, tasks::cancel_task))
        .routes(routes!(tasks::retry_task))
        .routes(routes!(extract::extract))
        .routes(routes!(schedules::create_schedule, schedules::list_schedules))
        .routes(routes!(
            schedules::get_schedule,
            schedules::replace_schedule,
            schedules::delete_schedule
        ))
        .routes(routes!(schedules::enable_schedule))
        .routes(routes!(schedules::disable_schedule))
        .routes(routes!(schedules::trigger_schedule))
        .routes(routes!(executions::list_executions))
        .routes(routes!(executions::get_execution))
        .routes(routes!(cluster::list_nodes))
        .routes(routes!(cluster::get_stats))
        .route("/openapi.json", axum::routing::get(serve_document))
        .route_layer(middleware::from_fn(call_middleware::require_json));
    let calls = json.merge(OpenApiRouter::new().routes(routes!(watch::watch_task)));
    let calls = calls.route_layer(middleware::from_fn(call_middleware::record_route));
    OpenApiRouter::with_openapi(ApiDocument::openapi()).nest(BASE_PATH, calls)
}

async fn serve_document(headers: HeaderMap) -> Response {
    static TEXT: LazyLock<StaticResponse> =
        LazyLock::new(|| StaticResponse::new("application/json", document_text()));
    TEXT.respond(&headers)
}

/// Builds the `OpenAPI` document as JSON.
#[must_use]
pub fn document() -> Value {
    let (_, document) = routes().split_for_parts();
    // A document built by utoipa always serializes to JSON.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({"token": {
        "type": "http", "scheme": "bearer",
        "description": "A Kubernetes token, or an API token created by `prewarmer token create`",
    }});
    // A YAML manifest has no schema.
    let path = format!("{BASE_PATH}/tasks:extract");
    document["paths"][path]["post"]["requestBody"]["content"]["application/yaml"]["schema"] =
        json!({});
    add_update_schemas(&mut document);
    document["security"] = json!([{"token": []}]);
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, call) in methods.as_object_mut().into_iter().flatten() {
            add_errors_and_sample(path, method, call);
        }
    }
    document
}

/// Adds the schema of an update of a schedule: that of a schedule to create, of which no field is
/// required, with null for the default value.
fn add_update_schemas(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    let update = |schema: &Value, description: &str| {
        let mut schema = schema.clone();
        schema["description"] = description.into();
        if let Some(fields) = schema.as_object_mut() {
            fields.remove("required");
        }
        schema
    };
    let what = "Change of a task: absent fields keep their values, and null sets the default.";
    schemas["TaskUpdate"] = update(&schemas["TaskRequest"], what);
    let what = "Change of a schedule: absent fields, also those of `taskConfig`, keep their values, and null sets the default.";
    let mut schedule = update(&schemas["ScheduleRequest"], what);
    schedule["properties"]["taskConfig"] = json!({
        "$ref": "#/components/schemas/TaskUpdate",
        "description": "Changes of the task that each execution creates.",
    });
    schemas["ScheduleUpdate"] = schedule;
    let path = format!("{BASE_PATH}/scheduled-tasks/{{id}}");
    document["paths"][path]["put"]["requestBody"]["content"]["application/json"]["schema"] =
        json!({"$ref": "#/components/schemas/ScheduleUpdate"});
}

/// Reports whether a call may return an error.
fn may_return(path: &str, method: &str, call: &Value, code: &str) -> bool {
    // Extraction only reads its body.
    let writes = method != "get" && !path.ends_with(":extract");
    match code {
        // An object that the path names, or the namespace of a new one.
        "404" => writes || path.contains('{'),
        "408" | "413" | "415" => call["requestBody"].is_object(),
        "409" | "422" => writes,
        _ => true,
    }
}

fn add_errors_and_sample(path: &str, method: &str, call: &mut Value) {
    let error = |description: &str| {
        let schema = json!({"$ref": "#/components/schemas/ErrorBody"});
        json!({"description": description, "content": {"application/json": {"schema": schema}}})
    };
    for (code, description) in ERRORS.iter().chain([&UNAVAILABLE]) {
        if may_return(path, method, call, code) {
            call["responses"][*code] = error(description);
        }
    }
    call["responses"]["429"]["headers"] = retry_after();
    call["responses"]["503"]["headers"] = retry_after();
    let sample = SAMPLES.iter().find(|(id, _)| call["operationId"] == *id);
    if let Some((_, source)) = sample {
        call["x-codeSamples"] = json!([{"lang": "Shell", "label": "curl", "source": source}]);
    }
}

fn retry_after() -> Value {
    json!({"Retry-After": {"description": "Seconds until the next attempt", "schema": {"type": "integer", "minimum": 1}}})
}

/// Returns the `OpenAPI` document as pretty-printed JSON, as it is served and committed.
#[must_use]
pub fn document_text() -> String {
    serde_json::to_string_pretty(&document()).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn errors_are_those_of_the_call() {
        let document = document();
        let errors = |path: &str, method: &str| -> Vec<String> {
            let responses = &document["paths"][format!("{BASE_PATH}{path}")][method]["responses"];
            let codes = responses.as_object().unwrap().keys();
            codes.filter(|code| code.starts_with(['4', '5'])).cloned().collect()
        };
        assert_eq!(errors("/stats", "get"), ["400", "401", "403", "405", "406", "429", "503"]);
        assert_eq!(
            errors("/tasks/{id}", "get"),
            ["400", "401", "403", "404", "405", "406", "429", "503"]
        );
        assert_eq!(
            errors("/tasks/{id}", "delete"),
            ["400", "401", "403", "404", "405", "406", "409", "422", "429", "503"]
        );
        assert_eq!(
            errors("/tasks:extract", "post"),
            ["400", "401", "403", "405", "406", "408", "413", "415", "429", "503"]
        );
        assert_eq!(errors("/tasks", "post").len(), ERRORS.len() + 1);
    }

    #[test]
    fn every_call_has_a_sample_and_every_sample_a_call() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let paths = document["paths"].as_object().unwrap();
        let calls: Vec<&Value> =
            paths.values().flat_map(|path| path.as_object().unwrap().values()).collect();
        let without: Vec<&Value> = calls
            .iter()
            .filter(|call| call["x-codeSamples"].is_null())
            .map(|call| &call["operationId"])
            .collect();
        assert!(without.is_empty(), "{without:?}");
        assert_eq!(calls.len(), SAMPLES.len());
        let schemas = &document["components"]["schemas"];
        for name in ["ScheduleUpdate", "TaskUpdate"] {
            assert!(schemas[name]["required"].is_null(), "{name}");
            assert!(schemas[name]["properties"].is_object(), "{name}");
        }
        let path = format!("{BASE_PATH}/scheduled-tasks/{{id}}");
        let body = &document["paths"][path]["put"]["requestBody"];
        let body = &body["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(body, "#/components/schemas/ScheduleUpdate");
        assert!(
            calls
                .iter()
                .all(|call| call["summary"].is_string() && call["responses"]["429"].is_object())
        );
    }
}
