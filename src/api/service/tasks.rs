//! Operations on tasks: create, cancel and retry.

use axum::http::StatusCode;
use jiff::Timestamp;
use kube::{
    Api as KubeApi, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use prewarmer_core::{
    schedule::random_task_name,
    task::{
        ORIGIN_LABEL, PrewarmTask, PrewarmTaskSpec, caps, nodes_not_warm, retry_spec,
        validate::validate,
    },
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde_json::json;

use crate::{
    api::{
        Api,
        auth::{Caller, Permission},
        error::{ApiError, Detail},
        idempotency,
    },
    store::{Status, TaskEntry},
};

pub(in crate::api) const CREATE: Permission =
    Permission { verb: "create", resource: "prewarmtasks" };
pub(in crate::api) const CANCEL: Permission =
    Permission { verb: "patch", resource: "prewarmtasks" };

/// Annotation of a task or a schedule: name of the caller that created it by REST.
pub(in crate::api) const CREATED_BY_ANNOTATION: &str = "prewarm.io/created-by";

/// Largest number of attempts to cancel a task when writes conflict.
const MAX_ATTEMPTS: u32 = 8;

/// Task that an operation has created.
pub(in crate::api) struct CreatedTask {
    pub(in crate::api) task: PrewarmTask,
    /// True when an earlier call with the same idempotency key created it.
    pub(in crate::api) existed: bool,
}

/// Creates a task. The permission [`CREATE`] is checked before, because REST checks it before it
/// reads a body. With an idempotency key, a repeated call returns the task of the first one. Error 400 when the spec exceeds the operator's
/// limits.
pub(in crate::api) async fn create(
    api: &Api,
    caller: &Caller,
    namespace: &str,
    spec: PrewarmTaskSpec,
    key: Option<&str>,
) -> Result<CreatedTask, ApiError> {
    let beyond =
        validate(&spec).map(|task| caps::check_limits(&api.policy.caps, &task)).unwrap_or_default();
    if !beyond.is_empty() {
        return Err(ApiError::invalid_fields(beyond.into_iter().map(Detail::from).collect()));
    }
    let (task, existed) = if let Some(key) = key {
        idempotency::create_or_get_by_key(api, caller, namespace, key, spec).await?
    } else {
        let name = random_task_name(Timestamp::now());
        (create_or_get(api, namespace, &name, spec, caller, false).await?, false)
    };
    api.catalog.put(&task);
    Ok(CreatedTask { task, existed })
}

/// Creates the task. With an `Idempotency-Key` (`by_key`) a task of that name may exist already,
/// created by an earlier or a concurrent call; that task is returned then, even to the call that
/// claimed the key.
pub(in crate::api) async fn create_or_get(
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
    match tasks.create(&PostParams::default(), &task).await {
        Ok(task) => Ok(task),
        Err(error) if by_key && ApiErrorKind::of(&error) == ApiErrorKind::AlreadyExists => {
            Ok(tasks.get(name).await?)
        }
        Err(error) => Err(creation_error(error, namespace)),
    }
}

/// Converts an error of a creation. A missing namespace becomes a 400 for the field `namespace`.
pub(in crate::api) fn creation_error(error: kube::Error, namespace: &str) -> ApiError {
    if ApiErrorKind::of(&error) == ApiErrorKind::NotFound {
        ApiError::invalid_field("namespace", format!("namespace {namespace} does not exist"))
    } else {
        error.into()
    }
}

/// Cancels a task that the caller may read: its workers are deleted, and no new ones are created.
/// Error 409 when it has ended.
pub(in crate::api) async fn cancel(
    api: &Api,
    caller: &Caller,
    entry: &TaskEntry,
) -> Result<(), ApiError> {
    let (namespace, name) = (&*entry.key.namespace, &*entry.key.name);
    api.auth.authorize(caller, CANCEL, namespace).await?;
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    for _ in 0..MAX_ATTEMPTS {
        let Some(task) = tasks.get_opt(name).await? else {
            return Err(ApiError::not_found("task", name));
        };
        let status = Status::from(task.phase());
        if status.is_final() {
            let words = format!("the task has ended already: its status is {}", status.as_str());
            return Err(ApiError::conflict(words, status.as_str()));
        }
        if task.spec.cancel {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": task.resource_version()},
            "spec": {"cancel": true},
        });
        match tasks.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(task) => {
                api.catalog.put(&task);
                return Ok(());
            }
            Err(error) if ApiErrorKind::of(&error).is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::retry_after(
        StatusCode::SERVICE_UNAVAILABLE,
        "the task was changed by other clients on every attempt: try again",
        1,
    ))
}

/// Creates a task with the same spec for the nodes that an ended task, which the caller may read,
/// did not warm. Error 409 when it has not ended, or when all of its nodes are warm.
pub(in crate::api) async fn retry(
    api: &Api,
    caller: &Caller,
    entry: &TaskEntry,
    key: Option<&str>,
) -> Result<CreatedTask, ApiError> {
    let conflict = |words: &str| Err(ApiError::conflict(words, entry.status.as_str()));
    if !entry.status.is_final() {
        return conflict("the task has not ended: wait until it ends, or cancel it");
    }
    let (namespace, name) = (&*entry.key.namespace, &*entry.key.name);
    api.auth.authorize(caller, CREATE, namespace).await?;
    let Some(plan) = api.plans.get(api, entry).await? else {
        return conflict("the task has no plan, so that its nodes are unknown: create a new task");
    };
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    let Some(task) = tasks.get_opt(name).await? else {
        return Err(ApiError::not_found("task", name));
    };
    let left = nodes_not_warm(&task, &plan);
    if left.is_empty() {
        return conflict("all nodes of the task are warm already");
    }
    create(api, caller, namespace, retry_spec(&task.spec, left), key).await
}
