//! The routes, and the `OpenAPI` document that follows from them.

use std::sync::LazyLock;

use axum::{http::HeaderMap, middleware, response::Response};
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::catalog::TaskView;

use super::{
    BASE, State, cluster, error::ErrorBody, executions, extract, front, samples::SAMPLES, schedules, still::Still,
    tasks, watch,
};

/// Every call may be answered so.
pub(super) const ERRORS: [(&str, &str); 12] = [
    ("400", "Fields or parameters are wrong: each is named in details"),
    ("401", "No token, or one that nobody knows"),
    ("403", "The caller may not do that"),
    ("404", "There is no such thing, or the caller may not know of it"),
    ("405", "The path has not this method; Allow says which it has"),
    ("406", "The caller takes no JSON"),
    ("408", "The body did not arrive"),
    ("409", "What is asked for is in the way of what is; status says what that is"),
    ("413", "The body is too large"),
    ("415", "The body is of another kind"),
    ("422", "The cluster does not take it, or the Idempotency-Key was used for something else"),
    ("429", "Too many calls; Retry-After says when the next is taken"),
];
/// And so, when it is not the caller's fault.
pub(super) const LATER: (&str, &str) = ("503", "The cluster does not answer; Retry-After says when to try again");

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Prewarmer",
        description = "Pulls container images to Kubernetes nodes before the pods that need them.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ErrorBody, TaskView)),
    tags(
        (name = "tasks", description = "Images to have on nodes"),
        (name = "schedules", description = "Tasks at times of day"),
        (name = "cluster", description = "Nodes and numbers"),
    ),
)]
struct Document;

/// The calls, and their description.
pub(super) fn routes() -> OpenApiRouter<State> {
    let json = OpenApiRouter::new()
        .routes(routes!(tasks::create_task, tasks::list_tasks))
        .routes(routes!(tasks::get_task, tasks::cancel_task))
        .routes(routes!(extract::extract))
        .routes(routes!(schedules::create_schedule, schedules::list_schedules))
        .routes(routes!(schedules::get_schedule, schedules::replace_schedule, schedules::delete_schedule))
        .routes(routes!(schedules::enable_schedule))
        .routes(routes!(schedules::disable_schedule))
        .routes(routes!(schedules::trigger_schedule))
        .routes(routes!(executions::list_executions))
        .routes(routes!(executions::get_execution))
        .routes(routes!(cluster::list_nodes))
        .routes(routes!(cluster::get_stats))
        .route("/openapi.json", axum::routing::get(served))
        .route_layer(middleware::from_fn(front::speaks_json));
    let calls = json.merge(OpenApiRouter::new().routes(routes!(watch::watch_task)));
    let calls = calls.route_layer(middleware::from_fn(front::note_route));
    OpenApiRouter::with_openapi(Document::openapi()).nest(BASE, calls)
}

async fn served(headers: HeaderMap) -> Response {
    static TEXT: LazyLock<Still> = LazyLock::new(|| Still::new("application/json", document_text()));
    TEXT.answer(&headers)
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let (_, document) = routes().split_for_parts();
    // What utoipa has built is JSON.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({"token": {
        "type": "http", "scheme": "bearer",
        "description": "A token of Kubernetes, or one that `prewarmer token create` has made",
    }});
    // A manifest in YAML is whatever YAML is.
    let path = format!("{BASE}/tasks:extract");
    document["paths"][path]["post"]["requestBody"]["content"]["application/yaml"]["schema"] = json!({});
    document["security"] = json!([{"token": []}]);
    let calls = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for call in calls.filter_map(Value::as_object_mut).flat_map(|methods| methods.values_mut()) {
        complete(call);
    }
    document
}

fn complete(call: &mut Value) {
    let error = |description: &str| {
        let schema = json!({"$ref": "#/components/schemas/ErrorBody"});
        json!({"description": description, "content": {"application/json": {"schema": schema}}})
    };
    for (code, description) in ERRORS.iter().chain([&LATER]) {
        call["responses"][*code] = error(description);
    }
    call["responses"]["429"]["headers"] = retry_after();
    call["responses"]["503"]["headers"] = retry_after();
    let sample = SAMPLES.iter().find(|(id, _)| call["operationId"] == *id);
    if let Some((_, source)) = sample {
        call["x-codeSamples"] = json!([{"lang": "Shell", "label": "curl", "source": source}]);
    }
}

fn retry_after() -> Value {
    json!({"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}})
}

/// The document, as it is served and committed.
#[must_use]
pub fn document_text() -> String {
    serde_json::to_string_pretty(&document()).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn every_call_has_a_sample_and_every_sample_a_call() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let paths = document["paths"].as_object().unwrap();
        let calls: Vec<&Value> = paths.values().flat_map(|path| path.as_object().unwrap().values()).collect();
        let without: Vec<&Value> =
            calls.iter().filter(|call| call["x-codeSamples"].is_null()).map(|call| &call["operationId"]).collect();
        assert!(without.is_empty(), "{without:?}");
        assert_eq!(calls.len(), SAMPLES.len());
        assert!(calls.iter().all(|call| call["summary"].is_string() && call["responses"]["429"].is_object()));
    }
}
