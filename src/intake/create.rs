//! Creation of tasks, and marking of obsolete ones: the only code of intake that writes to the
//! API server.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use prewarmer_core::{
    annotations::{
        MORE_WORKLOADS_ANNOTATION, OBSOLETE_ANNOTATION, REWRITTEN_ANNOTATION, WORKLOADS_ANNOTATION,
    },
    intake::{
        TaskDraft, TaskName,
        coalesce::{renewal_name, successor_name},
        dedup_index::{is_invalid, is_outdated},
    },
    labels::{MANAGED_BY, ORIGIN_LABEL},
    task::{PrewarmTask, PrewarmTaskSpec, PullMethod},
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde_json::json;

use super::IntakeSettings;
use crate::trace::{self, Span};

/// Maximum number of attempts after transient errors. With delays that double from
/// 400 ms, all attempts take about 12 s: the time that an API server needs to fail over.
/// The next hint for the same work starts an abandoned creation again.
const MAX_ATTEMPTS: u32 = 6;
const INITIAL_BACKOFF: Duration = Duration::from_millis(400);
/// Maximum number of invalid tasks for the same work for which a successor name is tried.
const MAX_PREDECESSORS: u32 = 5;

/// Creation that failed permanently or exhausted its retries. The error is already logged.
#[derive(Debug)]
pub(super) struct CreationFailed;

/// Creates the task, unless a valid task for the same work exists. Returns the name of the created
/// or existing task, which may be a successor name.
pub(super) async fn create_or_get_task(
    client: &Client,
    planned: &TaskDraft,
    settings: &IntakeSettings,
) -> Result<String, CreationFailed> {
    let tasks = Api::<PrewarmTask>::namespaced(client.clone(), &planned.namespace);
    let mut name = planned.name.clone();
    let mut delay = INITIAL_BACKOFF;
    let (mut tries, mut predecessors) = (0, 0);
    loop {
        let error = match tasks
            .create(&PostParams::default(), &task_object(planned, &name, settings))
            .await
        {
            Ok(task) => {
                record_creation(planned, &name, &task.uid().unwrap_or_default());
                return Ok(name);
            }
            Err(error) => error,
        };
        match ApiErrorKind::of(&error) {
            ApiErrorKind::AlreadyExists if predecessors < MAX_PREDECESSORS => {
                match tasks.get_opt(&name).await {
                    Ok(Some(task)) => match next_name(&planned.name, &name, &task) {
                        Some(next) => {
                            name = next;
                            predecessors += 1;
                            continue;
                        }
                        None => return Ok(name),
                    },
                    // Deleted since: the next attempt creates it.
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "cannot read the existing task"),
                }
            }
            kind if kind.is_rejection() => {
                tracing::warn!(namespace = planned.namespace, %error, "cannot create the task: the API server rejected it");
                return Err(CreationFailed);
            }
            _ => {}
        }
        tries += 1;
        if tries >= MAX_ATTEMPTS {
            tracing::warn!(namespace = planned.namespace, task = name, %error, "cannot create the task: retries exhausted");
            return Err(CreationFailed);
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
}

/// Logs and traces the creation of a task with the admitted workloads that need it.
fn record_creation(planned: &TaskDraft, name: &str, uid: &str) {
    let workloads =
        planned.workloads.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    let (namespace, trace) = (&planned.namespace, trace::trace_id(uid));
    tracing::info!(
        namespace,
        task = name,
        trace,
        workloads,
        "created a task for admitted workloads"
    );
    let attributes = [("namespace", namespace.as_str()), ("task", name), ("workloads", &workloads)];
    let (start, end) = (planned.first_hint_at, Timestamp::now());
    trace::record(&Span { name: "admission", task_uid: uid, start, end, attributes: &attributes });
}

/// Returns the name of the task that replaces `task`, whose name is `name`, where the work needs a
/// new one: the task failed, was cancelled, is obsolete or is being deleted, or its tags may have
/// moved since it completed. `planned` is the first name of the work, so that the number of tasks
/// that were replaced because of their age does not matter.
fn next_name(planned: &str, name: &str, task: &PrewarmTask) -> Option<String> {
    if is_invalid(task) || task.metadata.deletion_timestamp.is_some() {
        return Some(successor_name(name, &task.uid().unwrap_or_default()));
    }
    is_outdated(task).then(|| renewal_name(planned, Timestamp::now()))
}

fn task_object(planned: &TaskDraft, name: &str, settings: &IntakeSettings) -> PrewarmTask {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let retain = (!settings.retain.is_zero()).then(|| format!("{}s", settings.retain.as_secs()));
    let workloads: Vec<&str> = planned.workloads.iter().map(String::as_str).collect();
    let (workloads, more) = (workloads.join(","), planned.more_workloads.to_string());
    let mut annotations = vec![(WORKLOADS_ANNOTATION, workloads.as_str())];
    if planned.more_workloads > 0 {
        annotations.push((MORE_WORKLOADS_ANNOTATION, &more));
    }
    if planned.spec.pull_method == PullMethod::Helper {
        annotations.push((
            REWRITTEN_ANNOTATION,
            "another webhook changes the images of the workload's pods; the Helper pull \
            method is used, whose pods it changes in the same way",
        ));
    }
    PrewarmTask {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(planned.namespace.clone()),
            labels: Some(owned(&[MANAGED_BY, (ORIGIN_LABEL, "admission")])),
            annotations: Some(owned(&annotations)),
            ..ObjectMeta::default()
        },
        spec: PrewarmTaskSpec {
            ttl_seconds_after_finished: Some(settings.task_ttl),
            retain,
            ..planned.spec.clone()
        },
        status: None,
    }
}

/// Marks a task as obsolete by an annotation with the reason, so that no new work starts for it.
pub(crate) async fn mark_obsolete(client: &Client, task: &TaskName, why: &str) {
    let (namespace, name) = task;
    let patch = json!({"metadata": {"annotations": {OBSOLETE_ANNOTATION: why}}});
    let tasks = Api::<PrewarmTask>::namespaced(client.clone(), namespace);
    match tasks.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => tracing::info!(namespace, task = name, why, "marked the task as obsolete"),
        Err(error) if ApiErrorKind::of(&error) == ApiErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(namespace, task = name, %error, "cannot mark the task as obsolete");
        }
    }
}
