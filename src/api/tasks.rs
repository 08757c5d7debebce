//! Tasks: create, get, list, cancel.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use kube::{
    Api as KubeApi, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{
    Api, BASE,
    auth::{Caller, Deed, Visible},
    body,
    error::{ApiError, Detail},
    front::Subject,
    idempotency,
    params::{MAX_LIMIT, Pairs, Params},
    request::{self, TaskRequest, is_label},
};
use crate::{
    catalog::{Entry, Filter, Key, Status, TaskView, amount_schema},
    schedule::random_task_name,
    task::{Amount, ORIGIN_LABEL, PrewarmTask, PrewarmTaskSpec, caps, validate::validate},
};

pub(super) const CREATE: Deed = Deed { verb: "create", resource: "prewarmtasks" };
pub(super) const GET: Deed = Deed { verb: "get", resource: "prewarmtasks" };
pub(super) const LIST: Deed = Deed { verb: "list", resource: "prewarmtasks" };
pub(super) const CANCEL: Deed = Deed { verb: "patch", resource: "prewarmtasks" };

/// Of a task younger than this a replica may not have heard yet.
const UNHEARD: SignedDuration = SignedDuration::from_secs(60);
/// Tries to cancel a task that is being written at the same moment.
const TRIES: u32 = 8;
/// Longest name of an object.
const MAX_NAME: usize = 253;

/// The newest resource version that an answer from memory is based on.
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-resource-version");

/// A task that was made.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskCreated {
    /// The name of its `PrewarmTask`.
    pub task_id: String,
    /// Its namespace.
    pub namespace: String,
    /// Where it stands.
    pub status: Status,
    /// The images.
    pub images: Vec<String>,
    /// How many nodes at once.
    #[schema(schema_with = amount_schema)]
    pub batch_size: Amount,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// For people.
    pub message: String,
}

/// A page of tasks.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskList {
    /// The tasks, newest first.
    pub tasks: Vec<TaskView>,
    /// How many there are in all pages.
    pub total: usize,
    /// How many are in a page at most.
    pub limit: usize,
    /// After how many this page begins.
    pub offset: usize,
}

/// A task that was cancelled.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskCancelled {
    /// The name of its `PrewarmTask`.
    pub task_id: String,
    /// `cancelled`.
    pub status: Status,
    /// For people.
    pub message: String,
}

/// Make a task.
///
/// Repeated with the same `Idempotency-Key` header within a day, the call makes no second task.
#[utoipa::path(post, path = "/tasks", tag = "tasks", request_body = TaskRequest,
    params(
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "The namespace, where the body names none; with it the right is checked before the body is read"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice"),
    ),
    responses((status = 201, description = "The task was made, or had been made by this key", body = TaskCreated,
        headers(("Location" = String, description = "Where the task is")))))]
pub(super) async fn create_task(
    State(api): State<Api>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let key = idempotency::key(&headers)?;
    let (namespace, body) = body_of(&api, &caller, CREATE, pairs, &headers, body).await?;
    let wanted = request::read(body.value, &api.guard).map_err(ApiError::bad)?;
    let beyond = validate(&wanted.spec).map(|task| caps::check(&api.policy.caps, &task)).unwrap_or_default();
    if !beyond.is_empty() {
        return Err(ApiError::bad(beyond.into_iter().map(Detail::from).collect()));
    }
    let namespace = namespace.as_str();
    let (task, before) = if let Some(key) = key {
        idempotency::obtain(&api, &caller, namespace, key, wanted.spec).await?
    } else {
        let name = random_task_name(Timestamp::now());
        (obtain(&api, namespace, &name, wanted.spec, &caller, false).await?, false)
    };
    let name = task.name_any();
    api.catalog.put(&task);
    let view = TaskView::of(&task);
    let message = if before { "This task was made by an earlier call with the same key" } else { "The task was made" };
    let body = TaskCreated {
        task_id: view.task_id,
        namespace: view.namespace,
        status: view.status,
        images: view.images,
        batch_size: view.batch_size,
        created_at: view.created_at,
        message: message.into(),
    };
    let location = [(header::LOCATION, format!("{BASE}/tasks/{name}"))];
    let mut response = (StatusCode::CREATED, location, Json(body)).into_response();
    response.extensions_mut().insert(Subject(format!("{namespace}/{name}")));
    Ok(response)
}

/// The body of a call that creates something, and the namespace that it is for. The caller's right is checked before the body
/// is read where the query or a setting names the namespace, and else before anything of the body but its namespace is looked
/// at.
pub(super) async fn body_of(
    api: &Api,
    caller: &Caller,
    deed: Deed,
    pairs: Pairs,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, body::Json), ApiError> {
    let mut params = Params::of(pairs);
    let named = params.namespace();
    params.done()?;
    let known = named.clone().or_else(|| api.settings.watched.clone());
    if let Some(namespace) = &known {
        api.check_namespace(namespace)?;
        api.auth.authorize(caller, deed, namespace).await?;
    }
    let mut body = body::json(&api.bounds.bodies, &caller.name, headers, body).await?;
    // What is no name of a namespace is explained with the other fields, to callers who may do this somewhere.
    let given = body.value.get("namespace").and_then(Value::as_str).filter(|name| is_label(name)).map(str::to_owned);
    if let (Some(named), Some(given)) = (&named, &given)
        && named != given
    {
        return Err(ApiError::bad_field("namespace", format!("{given:?}: the query names another, {named:?}")));
    }
    let namespace = given.or(known).unwrap_or_else(|| api.default_namespace().to_owned());
    api.check_namespace(&namespace)?;
    api.auth.authorize(caller, deed, &namespace).await?;
    if let (Some(named), Some(fields)) = (named, body.value.as_object_mut())
        && fields.get("namespace").is_none_or(Value::is_null)
    {
        fields.insert("namespace".into(), named.into());
    }
    Ok((namespace, body))
}

/// Creates the task. By a key it may be there already, or its creation was cut off; even of the call that was first to
/// name it another may be faster to create it.
pub(super) async fn obtain(
    api: &Api,
    namespace: &str,
    name: &str,
    spec: PrewarmTaskSpec,
    caller: &Caller,
    by_key: bool,
) -> Result<PrewarmTask, ApiError> {
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    let labels = [("app.kubernetes.io/managed-by", "prewarmer"), (ORIGIN_LABEL, "rest")];
    let task = PrewarmTask {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Some([(CREATED_BY_ANNOTATION.to_owned(), caller.name.clone())].into()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    api.count("create", "prewarmtasks");
    match tasks.create(&PostParams::default(), &task).await {
        Ok(task) => Ok(task),
        Err(kube::Error::Api(status)) if by_key && status.reason == "AlreadyExists" => Ok(tasks.get(name).await?),
        Err(error) => Err(in_namespace(error, namespace)),
    }
}

/// On a task or a schedule: who asked for it by REST.
pub(super) const CREATED_BY_ANNOTATION: &str = "prewarm.io/created-by";

/// An object that cannot be created because of its namespace: that is a bad field.
pub(super) fn in_namespace(error: kube::Error, namespace: &str) -> ApiError {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            ApiError::bad_field("namespace", format!("there is no namespace {namespace}"))
        }
        other => other.into(),
    }
}

/// A page of the tasks, newest first.
///
/// With `offset` alone, tasks that are made meanwhile move the pages; the `Link` header names the next page as it was.
#[utoipa::path(get, path = "/tasks", tag = "tasks",
    params(
        ("status" = Option<String>, Query, pattern = "^(pending|running|completed|failed|cancelled)?$", description = "Only of this status"),
        ("search" = Option<String>, Query, max_length = 200, description = "Only tasks in whose name or images this stands"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Only of this namespace"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many at most; 10 by default"),
        ("offset" = Option<u32>, Query, maximum = 2_147_483_647, description = "After how many"),
        ("until" = Option<String>, Query, pattern = "^([0-9]{1,10}~[a-z0-9-]{1,63}~[a-z0-9.-]{1,253})?$",
            description = "Only tasks that there were then: taken from a Link header"),
    ),
    responses((status = 200, description = "The page", body = TaskList)))]
pub(super) async fn list_tasks(
    State(api): State<Api>,
    caller: Caller,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::of(pairs);
    params.drop_empty("status");
    let status = params.choice("status", &Status::ALL.map(|status| (status.as_str(), status)));
    let namespace = params.namespace();
    let (limit, offset) = params.page(MAX_LIMIT);
    let (until, search) = (params.text("until"), params.search());
    params.done()?;
    let until = until.map(|text| read_until(&text)).transpose()?;
    let visible = readable(&api, &caller, LIST, namespace).await?;
    let page = api.catalog.list(&Filter {
        status,
        search: search.as_deref(),
        visible: &|name| visible.has(name),
        until,
        limit,
        offset,
    });
    let end = offset + page.tasks.len();
    let mut text = Vec::with_capacity(page.tasks.iter().map(Bytes::len).sum::<usize>() + page.tasks.len() + 80);
    text.extend_from_slice(b"{\"tasks\":[");
    text.extend_from_slice(&page.tasks.join(&b','));
    text.extend_from_slice(format!("],\"total\":{},\"limit\":{limit},\"offset\":{offset}}}", page.total).as_bytes());
    let mut response = fresh(&api, &headers, &etag_of(&text), text.into());
    if let Some(newest) = page.newest.filter(|_| end < page.total && end > offset) {
        let status = status.map(|status| format!("&status={}", status.as_str())).unwrap_or_default();
        let place = match &visible {
            Visible::Only(names) if names.len() == 1 => format!("&namespace={}", names.iter().next().map_or("", |n| n)),
            _ => String::new(),
        };
        let until = write_until(&newest);
        let escaped = |text: String| format!("&search={}", utf8_percent_encode(&text, NON_ALPHANUMERIC));
        let search = search.map(escaped).unwrap_or_default();
        let link =
            format!("<{BASE}/tasks?limit={limit}&offset={end}{status}{place}{search}&until={until}>; rel=\"next\"");
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(response)
}

/// The namespaces of which a list may tell: the one that was asked for, or all that the caller may see.
pub(super) async fn readable(
    api: &Api,
    caller: &Caller,
    deed: Deed,
    namespace: Option<String>,
) -> Result<Visible, ApiError> {
    // A server that looks at one namespace means that one.
    match namespace.or_else(|| api.settings.watched.clone()) {
        Some(namespace) => {
            api.auth.authorize(caller, deed, &namespace).await?;
            Ok(Visible::Only([namespace].into()))
        }
        None => api.auth.visible(caller, deed).await,
    }
}

fn write_until((created, key): &(Timestamp, Key)) -> String {
    format!("{}~{}~{}", created.as_second(), key.namespace, key.name)
}

fn read_until(text: &str) -> Result<(Timestamp, Key), ApiError> {
    let mut parts = text.splitn(3, '~');
    let second = parts.next().and_then(|text| Timestamp::from_second(text.parse().ok()?).ok());
    match (second, parts.next(), parts.next()) {
        (Some(second), Some(namespace), Some(name)) => Ok((second, Key::new(namespace, name))),
        _ => Err(ApiError::bad_field("until", "expected the value of a Link header")),
    }
}

/// The task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The task's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have a task of that name"),
        ("If-None-Match" = Option<String>, Header, description = "An ETag: answered by 304 while it is current"),
    ),
    responses((status = 200, description = "The task", body = TaskView), (status = 304, description = "It has not changed")))]
pub(super) async fn get_task(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let entry = find(&api, &caller, &id, pairs).await?;
    Ok(fresh(&api, &headers, &etag(&entry), entry.json.clone()))
}

/// Cancel a task: its Jobs are deleted, and nothing new is begun.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks",
    params(
        ("id" = String, Path, max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description = "The task's name"),
        ("namespace" = Option<String>, Query, pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description = "Its namespace; needed where several have a task of that name"),
    ),
    responses((status = 200, description = "It is being cancelled", body = TaskCancelled)))]
pub(super) async fn cancel_task(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    pairs: Pairs,
) -> Result<Response, ApiError> {
    let entry = find(&api, &caller, &id, pairs).await?;
    let namespace = &entry.key.namespace;
    api.auth.authorize(&caller, CANCEL, namespace).await?;
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    for _ in 0..TRIES {
        let Some(task) = tasks.get_opt(&id).await? else { return Err(ApiError::not_found("task", &id)) };
        let status = Status::from(task.phase());
        if status.is_final() {
            let words = format!("the task has ended: it is {}", status.as_str());
            return Err(ApiError::conflict(words, status.as_str()));
        }
        if !task.spec.cancel {
            api.count("patch", "prewarmtasks");
            let version = task.resource_version();
            let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": {"cancel": true}}));
            match tasks.patch(&id, &PatchParams::default(), &patch).await {
                Ok(task) => api.catalog.put(&task),
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(error) => return Err(error.into()),
            }
        }
        let body = TaskCancelled {
            task_id: id.clone(),
            status: Status::Cancelled,
            message: "The task is being cancelled: its Jobs are deleted".into(),
        };
        let mut response = Json(body).into_response();
        response.extensions_mut().insert(Subject(format!("{namespace}/{id}")));
        return Ok(response);
    }
    Err(ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "the task is being changed all the time", 1))
}

/// The task of that name that the caller may read.
pub(super) async fn find(api: &Api, caller: &Caller, id: &str, pairs: Pairs) -> Result<Arc<Entry>, ApiError> {
    let mut params = Params::of(pairs);
    let namespace = params.namespace();
    params.done()?;
    if let Some(namespace) = &namespace {
        api.auth.authorize(caller, GET, namespace).await?;
    }
    let missing = || ApiError::not_found("task", id);
    if !is_name(id) {
        return Err(missing());
    }
    let mut found = api.catalog.named(id);
    if found.is_empty() && is_young(id, Timestamp::now()) {
        found = api.recent.find(api, caller, id, namespace.as_deref()).await?;
    }
    let found: Vec<_> = found.into_iter().map(|entry| (entry.key.namespace.to_string(), entry)).collect();
    pick(api, caller, GET, namespace.as_deref(), found).await?.ok_or_else(missing)
}

/// Of objects of one name, the one that is meant.
pub(super) async fn pick<T>(
    api: &Api,
    caller: &Caller,
    deed: Deed,
    namespace: Option<&str>,
    found: Vec<(String, T)>,
) -> Result<Option<T>, ApiError> {
    if let Some(namespace) = namespace {
        return Ok(found.into_iter().find(|(of, _)| of == namespace).map(|(_, one)| one));
    }
    let mut may = Vec::new();
    for (of, one) in found {
        if api.auth.allows(caller, deed, Some(&of)).await? {
            may.push((of, one));
        }
    }
    let preferred = may.iter().position(|(of, _)| may.len() == 1 || of == api.default_namespace());
    match preferred {
        Some(index) => Ok(Some(may.swap_remove(index).1)),
        None if may.is_empty() => Ok(None),
        None => {
            Err(ApiError::bad_field("namespace", "several namespaces have one of that name: name one by ?namespace="))
        }
    }
}

/// Whether it can be the name of an object.
pub(super) fn is_name(id: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    !id.is_empty()
        && id.len() <= MAX_NAME
        && id.chars().all(good)
        && !id.starts_with(['-', '.'])
        && !id.ends_with(['-', '.'])
}

/// Whether the name tells that its task was made a moment ago.
fn is_young(id: &str, now: Timestamp) -> bool {
    let time = id.strip_prefix("task-").and_then(|rest| rest.get(..15));
    let time = time.and_then(|text| DateTime::strptime("%Y%m%d-%H%M%S", text).ok());
    let time = time.and_then(|time| time.to_zoned(TimeZone::UTC).ok()).map(|time| time.timestamp());
    time.is_some_and(|time| now.duration_since(time).abs() < UNHEARD)
}

pub(super) fn etag(entry: &Entry) -> String {
    format!("\"{}-{}\"", entry.uid, entry.version)
}

/// The tag of a text, weak: the same text may be compressed or not.
pub(super) fn etag_of(text: &[u8]) -> String {
    format!("W/\"{}\"", crate::hex(&Sha256::digest(text)[..12]))
}

/// Whether the caller has it already.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(',')).any(|tag| tag.trim() == "*" || plain(tag) == plain(etag))
}

/// An answer from memory: JSON, its tag, and how fresh it is. Nothing but that where the caller has it already.
pub(super) fn fresh(api: &Api, headers: &HeaderMap, etag: &str, body: Bytes) -> Response {
    let freshness = api.catalog.freshness();
    let mut response = if is_known(headers, etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    let out = response.headers_mut();
    let text = |text: &str| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    out.insert(header::ETAG, text(etag));
    out.insert(header::AGE, HeaderValue::from(freshness.age.as_secs()));
    if !freshness.version.is_empty() {
        out.insert(VERSION, text(&freshness.version));
    }
    response
}

#[cfg(test)]
mod unit {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("\"a\"", true)]
    #[case("W/\"a\"", true)]
    #[case("\"b\", \"a\"", true)]
    #[case("*", true)]
    #[case("\"b\"", false)]
    #[case("a", false)]
    fn tags(#[case] given: &'static str, #[case] known: bool) {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(given))]);
        assert_eq!(is_known(&headers, "\"a\""), known);
    }

    #[test]
    fn names_and_their_age() {
        let now: Timestamp = "2026-11-21T10:00:30Z".parse().unwrap();
        assert!(is_young("task-20261121-100000-0badcafe", now) && !is_young("task-20261121-095900-0badcafe", now));
        assert!(!is_young("nightly", now) && !is_young("task-2026", now) && !is_young("task-20269921-100000-x", now));
        assert!(is_name("a.b-1") && !is_name("../a") && !is_name("A") && !is_name("") && !is_name(&"a".repeat(254)));
        let place = (now, Key::new("shop", "a.b"));
        let (time, key) = read_until(&write_until(&place)).ok().unwrap();
        assert_eq!((time.as_second(), key), (now.as_second(), place.1));
        assert!(read_until("x").is_err() && read_until("1~a").is_err());
    }
}
