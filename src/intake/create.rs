//! Creates planned tasks, and marks those that are not needed any more. The only code of intake that writes.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    IntakeSettings, PlannedTask,
    coalesce::successor,
    ledger::{MORE_WORKLOADS_ANNOTATION, REWRITTEN_ANNOTATION, TaskName, WORKLOADS_ANNOTATION, is_void},
};
use crate::{
    metrics::Metrics,
    task::{OBSOLETE_ANNOTATION, ORIGIN_LABEL, PrewarmTask, PrewarmTaskSpec, PullMethod},
    trace::{self, Span},
};

/// Tries at a passing error: with doubling delays from [`FIRST_DELAY`] about 12 s in all, the time an API server needs to
/// fail over. What is given up is taken up again by the next hint for it.
const TRIES: u32 = 6;
const FIRST_DELAY: Duration = Duration::from_millis(400);
/// How many failed predecessors of the same work are stepped over.
const MAX_PREDECESSORS: u32 = 5;

/// Why no task was created; it was logged.
#[derive(Debug)]
pub(super) struct GivenUp;

/// Creates the task, unless the same work is there already. The name that it has in the end.
pub(super) async fn create(
    client: &Client,
    planned: &PlannedTask,
    settings: &IntakeSettings,
    metrics: &Metrics,
) -> Result<String, GivenUp> {
    let tasks = Api::<PrewarmTask>::namespaced(client.clone(), &planned.namespace);
    let mut name = planned.name.clone();
    let mut delay = FIRST_DELAY;
    let (mut tries, mut predecessors) = (0, 0);
    loop {
        metrics.kube_requests.with_label_values(&["create", "prewarmtasks"]).inc();
        let error = match tasks.create(&PostParams::default(), &object(planned, &name, settings)).await {
            Ok(task) => {
                created(planned, &name, &task.uid().unwrap_or_default());
                return Ok(name);
            }
            Err(error) => error,
        };
        match &error {
            kube::Error::Api(status) if status.reason == "AlreadyExists" && predecessors < MAX_PREDECESSORS => {
                match ended_badly(&tasks, &name).await {
                    Ok(None) => return Ok(name),
                    Ok(Some(uid)) => {
                        name = successor(&name, &uid);
                        predecessors += 1;
                        continue;
                    }
                    Err(error) => tracing::debug!(%error, "the task that exists could not be read"),
                }
            }
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 422) => {
                tracing::warn!(namespace = planned.namespace, %error, "the namespace takes no PrewarmTask");
                return Err(GivenUp);
            }
            _ => {}
        }
        tries += 1;
        if tries >= TRIES {
            tracing::warn!(namespace = planned.namespace, task = name, %error, "gave up creating the task");
            return Err(GivenUp);
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
}

/// Tells what was made of which admissions.
fn created(planned: &PlannedTask, name: &str, uid: &str) {
    let workloads = planned.workloads.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    let (namespace, trace) = (&planned.namespace, trace::trace_id(uid));
    tracing::info!(namespace, task = name, trace, workloads, "warming what was admitted");
    let attributes = [("namespace", namespace.as_str()), ("task", name), ("workloads", &workloads)];
    let (start, end) = (planned.since, Timestamp::now());
    trace::tell(&Span { name: "admission", task_uid: uid, start, end, attributes: &attributes });
}

/// The UID of the task, if it failed, was cancelled or is obsolete: then the work is asked for anew.
async fn ended_badly(tasks: &Api<PrewarmTask>, name: &str) -> kube::Result<Option<String>> {
    let Some(task) = tasks.get_opt(name).await? else { return Ok(None) };
    Ok(task.uid().filter(|_| is_void(&task)))
}

fn object(planned: &PlannedTask, name: &str, settings: &IntakeSettings) -> PrewarmTask {
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
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
            "another webhook gives the workload's pods other images than its template \
            names; it treats the pods of the helper method alike",
        ));
    }
    PrewarmTask {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(planned.namespace.clone()),
            labels: Some(owned(&[("app.kubernetes.io/managed-by", "prewarmer"), (ORIGIN_LABEL, "admission")])),
            annotations: Some(owned(&annotations)),
            ..ObjectMeta::default()
        },
        spec: PrewarmTaskSpec { ttl_seconds_after_finished: Some(settings.task_ttl), retain, ..planned.spec.clone() },
        status: None,
    }
}

/// Says of a task that nothing new is to be begun for it.
pub async fn make_obsolete(client: &Client, task: &TaskName, why: &str, metrics: &Metrics) {
    let (namespace, name) = task;
    metrics.kube_requests.with_label_values(&["patch", "prewarmtasks"]).inc();
    let patch = json!({"metadata": {"annotations": {OBSOLETE_ANNOTATION: why}}});
    let tasks = Api::<PrewarmTask>::namespaced(client.clone(), namespace);
    match tasks.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => tracing::info!(namespace, task = name, why, "the task is not needed any more"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => tracing::warn!(namespace, task = name, %error, "the task could not be marked as obsolete"),
    }
}
