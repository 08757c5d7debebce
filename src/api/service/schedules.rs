//! Operations on schedules: list, get, create, replace, delete, enable, disable and trigger.

use std::sync::Arc;

use axum::http::StatusCode;
use jiff::Timestamp;
use kube::{
    Api as KubeApi, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use prewarmer_core::{
    annotations::CREATED_BY_ANNOTATION,
    dns,
    labels::MANAGED_BY,
    schedule::{
        ExecutionOrigin, ExecutionTask, ManualDecision, PrewarmSchedule, PrewarmScheduleSpec,
        QueuedRun, Trigger, build_task, decide_manual, random_task_name,
    },
    task::PrewarmTask,
    timestamp,
};
use prewarmer_kube::{
    api_error::ApiErrorKind,
    conflict::{retry_on_conflict, unless_conflict},
};
use serde_json::json;

use super::{
    error::ServiceError,
    lookup::{resolve_by_name, visible_namespaces},
};
use crate::api::{
    Api,
    auth::{Caller, NamespaceScope, Permission},
    error::Detail,
    field_path::FieldPath,
    permissions::{CREATE_TASK, DELETE_SCHEDULE, GET_SCHEDULE, LIST_SCHEDULES, UPDATE_SCHEDULE},
    recent_objects::is_recent_name,
    schedule_request::ParsedSchedule,
};

/// Execution that a caller has triggered.
pub enum TriggeredExecution {
    /// The task of this name was created.
    Started(String),
    /// The execution waits for the end of these tasks.
    Queued(Vec<String>),
}

fn schedule_client(api: &Api, namespace: &str) -> KubeApi<PrewarmSchedule> {
    KubeApi::namespaced(api.client.clone(), namespace)
}

/// Returns namespace and name of a schedule.
fn key_of(schedule: &PrewarmSchedule) -> (String, String) {
    (schedule.namespace().unwrap_or_default(), schedule.name_any())
}

/// Returns the schedules in these namespaces, sorted by namespace and name: all, or only the enabled
/// or the disabled ones. The permission [`LIST_SCHEDULES`] is checked before, by
/// [`visible_namespaces`].
pub(in crate::api) fn list(
    api: &Api,
    visible: &NamespaceScope,
    enabled: Option<bool>,
) -> Vec<Arc<PrewarmSchedule>> {
    let mut all = api.schedules.all();
    all.retain(|schedule| {
        visible.contains(schedule.metadata.namespace.as_deref().unwrap_or_default())
            && enabled.is_none_or(|wanted| schedule.spec.enabled == wanted)
    });
    all
}

/// Returns the schedules that the caller may list, in `namespace` or in all; `None` when the caller
/// may list no schedules.
pub(in crate::api) async fn list_permitted(
    api: &Api,
    caller: &Caller,
    namespace: Option<String>,
) -> Result<Option<Vec<Arc<PrewarmSchedule>>>, ServiceError> {
    match visible_namespaces(api, caller, LIST_SCHEDULES, namespace).await {
        Ok(visible) => Ok(Some(list(api, &visible, None))),
        Err(ServiceError::Rejected(error)) if error.code == StatusCode::FORBIDDEN => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the schedule named `id` that the caller may read: in `namespace` when it is given,
/// otherwise in any.
pub(in crate::api) async fn get(
    api: &Api,
    caller: &Caller,
    id: &str,
    namespace: Option<&str>,
) -> Result<Arc<PrewarmSchedule>, ServiceError> {
    if let Some(namespace) = namespace {
        api.auth.authorize(caller, GET_SCHEDULE, namespace).await?;
    }
    let mut named = if dns::is_subdomain(id) { api.schedules.by_name(id) } else { Vec::new() };
    if named.is_empty() && is_recent_name(id, Timestamp::now()) {
        named = api.recent_schedules.find(api, caller, id, namespace).await?;
    }
    let found = named.into_iter().map(|one| (one.namespace().unwrap_or_default(), one)).collect();
    let found = resolve_by_name(api, caller, GET_SCHEDULE, namespace, found).await?;
    found.ok_or_else(|| ServiceError::not_found("schedule", id))
}

/// Creates a schedule. The permission `CREATE_SCHEDULE` is checked before, because REST checks it
/// before it reads a body.
pub(in crate::api) async fn create(
    api: &Api,
    caller: &Caller,
    namespace: &str,
    spec: PrewarmScheduleSpec,
) -> Result<PrewarmSchedule, ServiceError> {
    let name = format!("scheduled-{}", random_task_name(Timestamp::now()));
    let schedule = PrewarmSchedule {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            annotations: Some([(CREATED_BY_ANNOTATION.to_owned(), caller.name.clone())].into()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let made = schedule_client(api, namespace).create(&PostParams::default(), &schedule).await;
    let made = made.map_err(|error| ServiceError::of_creation(error, namespace))?;
    api.schedules.put(made.clone());
    Ok(made)
}

/// Reads a schedule that the caller may read from the API server in order to change it, after
/// checking that the caller may do so.
pub(in crate::api) async fn get_for_change(
    api: &Api,
    caller: &Caller,
    known: &PrewarmSchedule,
    deed: Permission,
) -> Result<PrewarmSchedule, ServiceError> {
    let (namespace, name) = key_of(known);
    api.auth.authorize(caller, deed, &namespace).await?;
    let current = schedule_client(api, &namespace).get_opt(&name).await?;
    current.ok_or_else(|| ServiceError::not_found("schedule", name))
}

/// Changes the spec of a schedule. `change` returns the new spec for the current one. The permission
/// [`UPDATE_SCHEDULE`] is checked before, by [`get_for_change`], because REST checks it before it
/// reads a body. Error when the request names another namespace.
pub(in crate::api) async fn update(
    api: &Api,
    schedule: PrewarmSchedule,
    change: impl Fn(&PrewarmScheduleSpec) -> Result<ParsedSchedule, Vec<Detail>>,
) -> Result<PrewarmSchedule, ServiceError> {
    let (namespace, name) = key_of(&schedule);
    let schedules = schedule_client(api, &namespace);
    // A conflict means that the leader has written the status meanwhile, or another client the spec.
    let replaced = retry_on_conflict(async |attempt| {
        let current = if attempt == 0 { schedule.clone() } else { schedules.get(&name).await? };
        let wanted = change(&current.spec).map_err(ServiceError::Invalid)?;
        if wanted.namespace.is_some_and(|other| other != namespace) {
            let message =
                format!("the namespace of a schedule cannot be changed: expected {namespace}");
            let detail = Detail::in_body(&FieldPath::parse("namespace"), message);
            return Err(ServiceError::Invalid(vec![detail]));
        }
        let changed = PrewarmSchedule { spec: wanted.spec, ..current };
        let written = schedules.replace(&name, &PostParams::default(), &changed).await;
        Ok(unless_conflict(written)?)
    });
    let replaced = replaced.await?.ok_or(ServiceError::Contended("schedule"))?;
    api.schedules.put(replaced.clone());
    Ok(replaced)
}

/// Deletes a schedule that the caller may read, and the tasks that it created.
pub(in crate::api) async fn delete(
    api: &Api,
    caller: &Caller,
    known: &PrewarmSchedule,
) -> Result<(), ServiceError> {
    let schedule = get_for_change(api, caller, known, DELETE_SCHEDULE).await?;
    let (namespace, name) = key_of(&schedule);
    match schedule_client(api, &namespace).delete(&name, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(error) if ApiErrorKind::of(&error) == ApiErrorKind::NotFound => {
            return Err(ServiceError::not_found("schedule", name));
        }
        Err(error) => return Err(error.into()),
    }
    api.schedules.remove(&schedule);
    Ok(())
}

/// Enables or disables a schedule that the caller may read. A running execution continues.
pub(in crate::api) async fn set_enabled(
    api: &Api,
    caller: &Caller,
    known: &PrewarmSchedule,
    enabled: bool,
) -> Result<PrewarmSchedule, ServiceError> {
    let (namespace, name) = key_of(&get_for_change(api, caller, known, UPDATE_SCHEDULE).await?);
    let patch = Patch::Merge(json!({"spec": {"enabled": enabled}}));
    let schedules = schedule_client(api, &namespace);
    let changed = schedules.patch(&name, &PatchParams::default(), &patch).await?;
    api.schedules.put(changed.clone());
    Ok(changed)
}

/// Triggers an execution of a schedule that the caller may read, enabled or not. Error when another
/// execution is running and the schedule's `overlapPolicy` permits no other.
pub(in crate::api) async fn trigger(
    api: &Api,
    caller: &Caller,
    known: &PrewarmSchedule,
) -> Result<TriggeredExecution, ServiceError> {
    let (namespace, id) = key_of(known);
    // An execution is a task, so that the permission to create tasks is required.
    api.auth.authorize(caller, CREATE_TASK, &namespace).await?;
    let schedules = schedule_client(api, &namespace);
    let triggered = retry_on_conflict(async |_| {
        let schedule = schedules
            .get_opt(&id)
            .await?
            .ok_or_else(|| ServiceError::not_found("schedule", id.as_str()))?;
        let runs = api.catalog.executions_of(&namespace, &schedule.uid().unwrap_or_default());
        let runs: Vec<ExecutionTask> = runs
            .iter()
            .filter_map(|entry| entry.execution.as_ref().map(|run| run.facts.clone()))
            .collect();
        let queued = schedule.status.as_ref().is_some_and(|status| status.queued.is_some());
        let now = timestamp::truncate_to_seconds(Timestamp::now());
        let made = ExecutionOrigin { scheduled_at: now, trigger: Trigger::Manual };
        match decide_manual(schedule.spec.overlap_policy, &runs, queued) {
            ManualDecision::Start => {
                let name = random_task_name(made.scheduled_at);
                let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), &namespace);
                let task = tasks
                    .create(&PostParams::default(), &build_task(&schedule, &name, &made))
                    .await?;
                api.catalog.put(&task);
                Ok(Some(TriggeredExecution::Started(name)))
            }
            ManualDecision::Queue(open) => {
                // The queued execution is written into the schedule, which requires the permission
                // to update it.
                api.auth.authorize(caller, UPDATE_SCHEDULE, &namespace).await?;
                let queued = enqueue(api, &schedules, schedule, &made).await?;
                Ok(queued.map(|()| TriggeredExecution::Queued(open)))
            }
            ManualDecision::Refuse(open) => {
                let message = format!(
                    "{} is running, and the schedule's overlapPolicy permits no other execution",
                    open.join(", ")
                );
                Err(ServiceError::Conflict { message, status: "running" })
            }
        }
    });
    triggered.await?.ok_or(ServiceError::Contended("schedule"))
}

/// Writes a queued execution into the schedule's status. Returns `None` when the write conflicts
/// with another writer.
async fn enqueue(
    api: &Api,
    schedules: &KubeApi<PrewarmSchedule>,
    mut schedule: PrewarmSchedule,
    made: &ExecutionOrigin,
) -> kube::Result<Option<()>> {
    let scheduled_time = timestamp::format(made.scheduled_at);
    let queued = QueuedRun { scheduled_time, trigger: made.trigger };
    schedule.status.get_or_insert_default().queued = Some(queued);
    let written =
        schedules.replace_status(&schedule.name_any(), &PostParams::default(), &schedule).await;
    Ok(unless_conflict(written)?.map(|schedule| api.schedules.put(schedule)))
}
