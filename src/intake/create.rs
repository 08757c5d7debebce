//! Creates planned tasks. The only code of intake that talks to the API server.

use std::time::Duration;

use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};

use super::{IntakeSettings, PlannedTask, coalesce::successor};
use crate::{
    metrics::Metrics,
    task::{Phase, PrewarmTask, PrewarmTaskSpec},
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

/// Creates the task, unless the same work is there already.
pub(super) async fn create(
    client: &Client,
    planned: &PlannedTask,
    settings: &IntakeSettings,
    metrics: &Metrics,
) -> Result<(), GivenUp> {
    let tasks = Api::<PrewarmTask>::namespaced(client.clone(), &planned.namespace);
    let mut name = planned.name.clone();
    let mut delay = FIRST_DELAY;
    let (mut tries, mut predecessors) = (0, 0);
    loop {
        metrics.kube_requests.with_label_values(&["create", "prewarmtasks"]).inc();
        let Err(error) = tasks.create(&PostParams::default(), &object(planned, &name, settings)).await else {
            let workloads = planned.workloads.join(", ");
            tracing::info!(namespace = planned.namespace, task = name, workloads, "warming what was admitted");
            return Ok(());
        };
        match &error {
            kube::Error::Api(status) if status.reason == "AlreadyExists" && predecessors < MAX_PREDECESSORS => {
                match ended_badly(&tasks, &name).await {
                    Ok(None) => return Ok(()),
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

/// The UID of the task, if it failed or was cancelled: then the work is asked for anew.
async fn ended_badly(tasks: &Api<PrewarmTask>, name: &str) -> kube::Result<Option<String>> {
    let Some(task) = tasks.get_opt(name).await? else { return Ok(None) };
    Ok(task.uid().filter(|_| matches!(task.phase(), Phase::Failed | Phase::Cancelled)))
}

fn object(planned: &PlannedTask, name: &str, settings: &IntakeSettings) -> PrewarmTask {
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let retain = (!settings.retain.is_zero()).then(|| format!("{}s", settings.retain.as_secs()));
    PrewarmTask {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(planned.namespace.clone()),
            labels: Some(owned(&[("app.kubernetes.io/managed-by", "prewarmer"), ("prewarm.io/origin", "admission")])),
            annotations: Some(owned(&[("prewarm.io/workloads", &planned.workloads.join(","))])),
            ..ObjectMeta::default()
        },
        spec: PrewarmTaskSpec { ttl_seconds_after_finished: Some(settings.task_ttl), retain, ..planned.spec.clone() },
        status: None,
    }
}
