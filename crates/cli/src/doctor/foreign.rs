//! Search for objects with the labels of workers that fail provenance.

use std::collections::HashMap;

use kube::{Client, ResourceExt, api::ListParams};
use prewarmer_core::{
    labels::{self, MANAGED_BY},
    slim::{SlimJob, SlimPod},
    task::PrewarmTask,
    worker::{
        PodPhase, WorkerInfo,
        provenance::{
            AllowedNamespaces, ProvenanceError, verify_against_job, verify_against_task,
            verify_job, verify_pod,
        },
    },
};
use prewarmer_kube::list::list_all;

use super::{
    results::{ForeignSummary, QueryResult},
    settings::DoctorSettings,
};
use crate::scope::scoped;

/// Largest number of objects of a kind that are checked. By default a cluster has at most 300
/// running and 8,000 retained workers.
const MAX_OBJECTS: usize = 20_000;
/// Largest number of objects that are listed by name.
const MAX_EXAMPLES: usize = 5;

/// Lists the objects that have the labels of workers and that the server ignores because they fail
/// provenance.
pub(super) async fn find_foreign(
    client: &Client,
    asked: &DoctorSettings,
) -> QueryResult<ForeignSummary> {
    QueryResult::from_result(list_foreign(client, asked).await)
}

async fn list_foreign(client: &Client, asked: &DoctorSettings) -> kube::Result<ForeignSummary> {
    let watched = asked.watch_namespace.as_deref();
    let own =
        watched.filter(|watched| *watched != asked.namespace).map(|_| asked.namespace.as_str());
    let labelled = ListParams::default().labels(&labels::selector(MANAGED_BY));
    // Owners are listed after their dependents, so that an owner created in between is found.
    let (mut pods, mut jobs) = (Vec::<SlimPod>::new(), Vec::<SlimJob>::new());
    for place in [Some(watched), own.map(Some)].into_iter().flatten() {
        pods.extend(list_all(&scoped(client, place), labelled.clone(), MAX_OBJECTS).await?);
    }
    for place in [Some(watched), own.map(Some)].into_iter().flatten() {
        jobs.extend(list_all(&scoped(client, place), labelled.clone(), MAX_OBJECTS).await?);
    }
    let tasks = if pods.is_empty() && jobs.is_empty() {
        Vec::new()
    } else {
        list_all(&scoped(client, watched), ListParams::default(), MAX_OBJECTS).await?
    };
    Ok(check_provenance(
        &pods,
        &jobs,
        &tasks,
        &AllowedNamespaces { own: Some(asked.namespace.clone()) },
    ))
}

/// Returns those that fail provenance. Pure.
fn check_provenance(
    pods: &[SlimPod],
    jobs: &[SlimJob],
    tasks: &[PrewarmTask],
    places: &AllowedNamespaces,
) -> ForeignSummary {
    let tasks: HashMap<String, &PrewarmTask> =
        tasks.iter().map(|task| (task.uid().unwrap_or_default(), task)).collect();
    let check = |worker: WorkerInfo| match tasks.get(&worker.task_uid) {
        Some(task) => verify_against_task(&worker, *task).map(|()| worker),
        None if worker.is_outside_task_namespace() => Ok(worker),
        None => Err(ProvenanceError::UnknownTask),
    };
    let mut foreign = ForeignSummary::default();
    let mut workers = HashMap::new();
    for job in jobs {
        match verify_job(job, places).and_then(check) {
            Ok(worker) => drop(workers.insert(worker.key(), worker)),
            Err(reason) => add_foreign(&mut foreign, "Job", job, reason),
        }
    }
    for pod in pods {
        let claim = verify_pod(pod, places);
        let checked =
            claim.and_then(|claim| match (&claim.job, workers.get(&claim.worker.key())) {
                (None, _) => check(claim.worker).map(drop),
                (Some(_), Some(job)) => verify_against_job(&claim, job),
                (Some(_), None) => Err(ProvenanceError::UnknownJob),
            });
        if let Err(reason) = checked.or_else(|reason| ignore_left_pod(pod, reason)) {
            add_foreign(&mut foreign, "Pod", pod, reason);
        }
    }
    foreign
}

/// Ignores a pod that has ended and whose Job does not exist: it is left of a Job that was deleted
/// in the background, until the garbage collector of kube-controller-manager deletes it too.
fn ignore_left_pod(pod: &SlimPod, reason: ProvenanceError) -> Result<(), ProvenanceError> {
    let is_left = reason == ProvenanceError::UnknownJob && PodPhase::from_pod(pod).is_final();
    if is_left { Ok(()) } else { Err(reason) }
}

fn add_foreign(
    foreign: &mut ForeignSummary,
    kind: &str,
    object: &impl ResourceExt,
    reason: ProvenanceError,
) {
    // The garbage collector is about to delete it.
    if reason.is_transient() && object.meta().deletion_timestamp.is_some() {
        return;
    }
    foreign.count += 1;
    if foreign.examples.len() < MAX_EXAMPLES {
        let namespace = object.namespace().unwrap_or_default();
        foreign.examples.push(format!(
            "{kind} {namespace}/{} ({})",
            object.name_any(),
            reason.description()
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prewarmer_core::{
        labels::TASK_UID_LABEL,
        task::{PrewarmTaskSpec, PullMethod, PullPolicy, validate::validate},
        worker::{Assignment, WorkerObject, WorkerSettings, build},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_that_fail_provenance_are_listed() {
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, TASK_UID_LABEL: "u"});
        let object = |n: usize| json!({"metadata": {"name": format!("fake-{n}"), "namespace": "evil", "labels": labels}});
        let jobs: Vec<SlimJob> =
            (0..7).map(|n| serde_json::from_value(object(n)).unwrap()).collect();
        let foreign = check_provenance(&[], &jobs, &[], &AllowedNamespaces::default());
        assert_eq!((foreign.count, foreign.examples.len()), (7, MAX_EXAMPLES));
        assert_eq!(
            foreign.examples[0],
            "Job evil/fake-0 (labels or annotations of a worker are missing or contradict one another)"
        );
    }

    /// Returns a worker Job's pod in a phase.
    fn pod_of_job(phase: &str) -> SlimPod {
        let task = validate(&PrewarmTaskSpec::new(vec!["a:1".into()])).unwrap();
        let at = Assignment {
            namespace: "shop",
            task_namespace: "shop",
            task: "web",
            task_uid: "u",
            batch: 0,
            node: "n1",
            attempt: 0,
            part: 0,
            images: &[0],
            method: PullMethod::Helper,
        };
        let settings = WorkerSettings {
            image_pull_policy: PullPolicy::default(),
            owner: None,
            service_account: None,
            image: "helper:1".into(),
            priority_class: None,
            ttl: Duration::from_secs(60),
            images_per_pod: 30,
        };
        let WorkerObject::Job(job) = build(&task, &at, &settings) else { panic!("no Job") };
        let name = job.name_any();
        let mut pod = serde_json::to_value(&job.spec.as_ref().unwrap().template).unwrap();
        pod["metadata"]["name"] = json!(format!("{name}-abcde"));
        pod["metadata"]["namespace"] = json!("shop");
        pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job",
            "name": name, "uid": "of-job", "controller": true}]);
        pod["status"] = json!({"phase": phase});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn pod_that_has_ended_is_not_foreign_after_the_deletion_of_its_job() {
        let pods = ["Succeeded", "Failed", "Running"].map(pod_of_job);
        let foreign = check_provenance(&pods, &[], &[], &AllowedNamespaces::default());
        assert_eq!(foreign.count, 1);
        let reason = ProvenanceError::UnknownJob.description();
        assert!(foreign.examples[0].contains(reason), "{:?}", foreign.examples);
    }
}
