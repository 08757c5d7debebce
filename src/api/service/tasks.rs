//! Operations on tasks: list, get, create, cancel and retry.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{
    Api as KubeApi, ResourceExt,
    api::{Patch, PatchParams},
};
use prewarmer_core::{
    dns,
    schedule::random_task_name,
    task::{
        PrewarmTask, PrewarmTaskSpec, Status, caps, nodes_not_warm, retry_spec, validate::validate,
    },
};
use prewarmer_kube::{
    conflict::{retry_on_conflict, unless_conflict},
    store::{ListedTasks, NamespacedName, TaskEntry, TaskFilter},
};
use serde_json::json;

use super::{create_task::create_or_get, error::ServiceError, lookup::resolve_by_name};
use crate::api::{
    Api,
    auth::{Caller, NamespaceScope},
    error::Detail,
    idempotency,
    permissions::{CANCEL_TASK, CREATE_TASK, GET_TASK},
    recent_objects::is_recent_name,
};

/// Selection of a page of tasks.
#[derive(Debug, Default)]
pub struct TaskSelection<'a> {
    /// Status of the tasks; `None` for all.
    pub status: Option<Status>,
    /// Text that the name or an image must contain; `None` for all.
    pub search: Option<&'a str>,
    /// Sort key of the newest task to include; `None` for all.
    pub until: Option<(Timestamp, NamespacedName)>,
    /// Largest number of tasks in the page.
    pub limit: usize,
    /// Number of matching tasks to skip.
    pub offset: usize,
}

/// Task that an operation has created.
pub(in crate::api) struct CreatedTask {
    pub(in crate::api) task: PrewarmTask,
    /// True when an earlier call with the same idempotency key created it.
    pub(in crate::api) existed: bool,
}

/// Returns a page of the tasks in these namespaces, newest first. The permission `LIST_TASKS` is
/// checked before, by [`super::visible_namespaces`].
pub(in crate::api) fn list(
    api: &Api,
    visible: &NamespaceScope,
    selection: TaskSelection<'_>,
) -> ListedTasks {
    let TaskSelection { status, search, until, limit, offset } = selection;
    let visible = &|name: &str| visible.contains(name);
    api.catalog.list(&TaskFilter { status, search, visible, until, limit, offset })
}

/// Returns the task named `id` that the caller may read: in `namespace` when it is given, otherwise
/// in any.
pub(in crate::api) async fn get(
    api: &Api,
    caller: &Caller,
    id: &str,
    namespace: Option<&str>,
) -> Result<Arc<TaskEntry>, ServiceError> {
    if let Some(namespace) = namespace {
        api.auth.authorize(caller, GET_TASK, namespace).await?;
    }
    let missing = || ServiceError::not_found("task", id);
    if !dns::is_subdomain(id) {
        return Err(missing());
    }
    let mut found = api.catalog.by_name(id);
    if found.is_empty() && is_recent_name(id, Timestamp::now()) {
        found = api.recent_tasks.find(api, caller, id, namespace).await?;
    }
    let found: Vec<_> =
        found.into_iter().map(|entry| (entry.key.namespace.to_string(), entry)).collect();
    resolve_by_name(api, caller, GET_TASK, namespace, found).await?.ok_or_else(missing)
}

/// Creates a task. The permission [`CREATE_TASK`] is checked before, because REST checks it before
/// it reads a body. With an idempotency key, a repeated call returns the task of the first one.
/// Error when the spec exceeds the operator's limits.
pub(in crate::api) async fn create(
    api: &Api,
    caller: &Caller,
    namespace: &str,
    spec: PrewarmTaskSpec,
    key: Option<&str>,
) -> Result<CreatedTask, ServiceError> {
    let beyond =
        validate(&spec).map(|task| caps::check_limits(&api.policy.caps, &task)).unwrap_or_default();
    if !beyond.is_empty() {
        return Err(ServiceError::Invalid(beyond.into_iter().map(Detail::from).collect()));
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

/// Cancels a task that the caller may read: its workers are deleted, and no new ones are created.
/// Error when it has ended.
pub(in crate::api) async fn cancel(
    api: &Api,
    caller: &Caller,
    entry: &TaskEntry,
) -> Result<(), ServiceError> {
    let (namespace, name) = (&*entry.key.namespace, &*entry.key.name);
    api.auth.authorize(caller, CANCEL_TASK, namespace).await?;
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    let cancelled = retry_on_conflict(async |_| {
        let Some(task) = tasks.get_opt(name).await? else {
            return Err(ServiceError::not_found("task", name));
        };
        let status = Status::from(task.phase());
        if status.is_final() {
            let status = status.as_str();
            let message = format!("the task has ended already: its status is {status}");
            return Err(ServiceError::Conflict { message, status });
        }
        if task.spec.cancel {
            return Ok(Some(()));
        }
        let patch = json!({
            "metadata": {"resourceVersion": task.resource_version()},
            "spec": {"cancel": true},
        });
        let patched = tasks.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        Ok(unless_conflict(patched)?.map(|task| api.catalog.put(&task)))
    });
    cancelled.await?.ok_or(ServiceError::Contended("task"))
}

/// Creates a task with the same spec for the nodes that an ended task, which the caller may read,
/// did not warm. Error when it has not ended, or when all of its nodes are warm.
pub(in crate::api) async fn retry(
    api: &Api,
    caller: &Caller,
    entry: &TaskEntry,
    key: Option<&str>,
) -> Result<CreatedTask, ServiceError> {
    let status = entry.status.as_str();
    let conflict = |words: &str| Err(ServiceError::Conflict { message: words.into(), status });
    if !entry.status.is_final() {
        return conflict("the task has not ended: wait until it ends, or cancel it");
    }
    let (namespace, name) = (&*entry.key.namespace, &*entry.key.name);
    api.auth.authorize(caller, CREATE_TASK, namespace).await?;
    let Some(plan) = api.plans.get(api, entry).await? else {
        return conflict("the task has no plan, so that its nodes are unknown: create a new task");
    };
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    let Some(task) = tasks.get_opt(name).await? else {
        return Err(ServiceError::not_found("task", name));
    };
    let left = nodes_not_warm(&task, &plan);
    if left.is_empty() {
        return conflict("all nodes of the task are warm already");
    }
    create(api, caller, namespace, retry_spec(&task.spec, left), key).await
}
