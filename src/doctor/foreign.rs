//! Jobs and pods with the labels of workers that others made.

use std::collections::HashMap;

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, ObjectList},
};
use serde::de::DeserializeOwned;

use super::answers::{Foreign, Seen};
use crate::{
    config::Doctor,
    reduced::{ReducedJob, ReducedPod},
    scope::scoped,
    task::PrewarmTask,
    worker::{
        MANAGED_BY, WorkerFacts,
        provenance::{Places, Rejection, check_job, check_task, of_job, of_pod},
    },
};

/// Objects per page.
const PAGE: u32 = 500;
/// Objects of a kind that are looked at: a cluster has 300 workers at work and 8,000 retained by default.
const MOST: usize = 20_000;
/// Objects that are named.
const NAMED: usize = 5;

/// Lists what has the labels of workers and fails the checks of provenance by which the server ignores it.
pub(super) async fn foreign(client: &Client, asked: &Doctor) -> Seen<Foreign> {
    Seen::of(look(client, asked).await)
}

async fn look(client: &Client, asked: &Doctor) -> kube::Result<Foreign> {
    let watched = asked.watch_namespace.as_deref();
    let own = watched.filter(|watched| *watched != asked.namespace).map(|_| asked.namespace.as_str());
    let labelled = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    // Owners are listed after what they own, so that one that is new in between is not missed.
    let (mut pods, mut jobs) = (Vec::<ReducedPod>::new(), Vec::<ReducedJob>::new());
    for place in [Some(watched), own.map(Some)].into_iter().flatten() {
        pods.extend(all(&scoped(client, place), &labelled).await?);
    }
    for place in [Some(watched), own.map(Some)].into_iter().flatten() {
        jobs.extend(all(&scoped(client, place), &labelled).await?);
    }
    let tasks = if pods.is_empty() && jobs.is_empty() { Vec::new() } else { all(&scoped(client, watched), "").await? };
    Ok(sort(&pods, &jobs, &tasks, &Places { own: Some(asked.namespace.clone()) }))
}

async fn all<K>(api: &Api<K>, labels: &str) -> kube::Result<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE).labels(labels);
    loop {
        let ObjectList { items, metadata, .. } = api.list(&page).await?;
        found.extend(items);
        match metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if found.len() < MOST => page.continue_token = Some(token),
            _ => return Ok(found),
        }
    }
}

/// Which of them are not workers. *Pure.*
fn sort(pods: &[ReducedPod], jobs: &[ReducedJob], tasks: &[PrewarmTask], places: &Places) -> Foreign {
    let tasks: HashMap<String, &PrewarmTask> =
        tasks.iter().map(|task| (task.uid().unwrap_or_default(), task)).collect();
    let check = |worker: WorkerFacts| match tasks.get(&worker.task_uid) {
        Some(task) => check_task(&worker, task).map(|()| worker),
        None if worker.is_away() => Ok(worker),
        None => Err(Rejection::UnknownTask),
    };
    let mut foreign = Foreign::default();
    let mut workers = HashMap::new();
    for job in jobs {
        match of_job(job, places).and_then(check) {
            Ok(worker) => drop(workers.insert(worker.key(), worker)),
            Err(reason) => note(&mut foreign, "Job", job, reason),
        }
    }
    for pod in pods {
        let claim = of_pod(pod, places);
        let checked = claim.and_then(|claim| match (&claim.job, workers.get(&claim.worker.key())) {
            (None, _) => check(claim.worker).map(drop),
            (Some(_), Some(job)) => check_job(&claim, job),
            (Some(_), None) => Err(Rejection::UnknownJob),
        });
        if let Err(reason) = checked {
            note(&mut foreign, "Pod", pod, reason);
        }
    }
    foreign
}

fn note(foreign: &mut Foreign, kind: &str, object: &impl ResourceExt, reason: Rejection) {
    // The garbage collector is at it.
    if reason.may_pass() && object.meta().deletion_timestamp.is_some() {
        return;
    }
    foreign.number += 1;
    if foreign.named.len() < NAMED {
        let namespace = object.namespace().unwrap_or_default();
        foreign.named.push(format!("{kind} {namespace}/{} ({})", object.name_any(), reason.explain()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_made_by_us_is_named() {
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, "prewarm.io/task-uid": "u"});
        let object =
            |n: usize| json!({"metadata": {"name": format!("fake-{n}"), "namespace": "evil", "labels": labels}});
        let jobs: Vec<ReducedJob> = (0..7).map(|n| serde_json::from_value(object(n)).unwrap()).collect();
        let foreign = sort(&[], &jobs, &[], &Places::default());
        assert_eq!((foreign.number, foreign.named.len()), (7, NAMED));
        assert_eq!(
            foreign.named[0],
            "Job evil/fake-0 (labels or annotations of a worker are missing or contradict one another)"
        );
    }
}
