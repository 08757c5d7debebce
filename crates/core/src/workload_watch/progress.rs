//! Rollout progress of workloads. Pure: no client, no clock, no I/O.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{
    timestamp,
    workload::{ObjectView, WorkloadKind},
};

/// Age up to which a `CronJob` is expected not to have run yet. Its status does not report its
/// first run.
const NEW_CRON_JOB: SignedDuration = SignedDuration::from_secs(600);

/// Reports whether pods of the newest template are still to be created. A Deployment also counts
/// until its pods are available or its progress deadline is exceeded. Other kinds do not: they
/// report no such deadline, and among thousands of nodes one is always not ready.
#[must_use]
pub fn is_in_progress(kind: &WorkloadKind, object: &ObjectView, now: Timestamp) -> bool {
    let status = &object.status;
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "DaemonSet") => {
            is_generation_unobserved(kind, object)
                || status.updated_number_scheduled.unwrap_or(0)
                    < status.desired_number_scheduled.unwrap_or(0)
        }
        ("apps", "Deployment") => {
            let wanted = object.replicas.unwrap_or(1);
            let given_up = status
                .conditions
                .iter()
                .any(|condition| condition.reason == "ProgressDeadlineExceeded");
            is_generation_unobserved(kind, object)
                || status.updated_replicas.unwrap_or(0) < wanted
                || !given_up && status.available_replicas.unwrap_or(0) < wanted
        }
        ("apps", "StatefulSet") => {
            is_generation_unobserved(kind, object)
                || status.updated_replicas.unwrap_or(0) < object.replicas.unwrap_or(1)
        }
        ("apps", "ReplicaSet") | ("", "ReplicationController") => {
            is_generation_unobserved(kind, object)
                || status.replicas.unwrap_or(0) < object.replicas.unwrap_or(1)
        }
        ("batch", "Job") => status.start_time.is_empty(),
        ("batch", "CronJob") => {
            let made = object.metadata.creation_timestamp.as_deref().and_then(timestamp::parse);
            made.is_some_and(|made| now.duration_since(made) < NEW_CRON_JOB)
        }
        _ => {
            is_generation_unobserved(kind, object)
                || status
                    .updated_replicas
                    .zip(object.replicas)
                    .is_some_and(|(has, wants)| has < wants)
        }
    }
}

/// Reports whether the controller has not observed the newest generation. Not every kind reports
/// it.
fn is_generation_unobserved(kind: &WorkloadKind, object: &ObjectView) -> bool {
    match (object.status.observed_generation, object.metadata.generation) {
        (Some(seen), Some(generation)) => seen < generation,
        (None, Some(_)) => !kind.is_custom() && kind.group != "batch",
        _ => false,
    }
}

/// Reports whether pods exist and all of them have the newest template.
#[must_use]
pub fn is_complete(kind: &WorkloadKind, object: &ObjectView) -> bool {
    let status = &object.status;
    if is_generation_unobserved(kind, object) {
        return false;
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "DaemonSet") => {
            status.updated_number_scheduled.unwrap_or(0) >= 1
                && status.updated_number_scheduled == status.desired_number_scheduled
        }
        ("batch", "Job") => status.active.unwrap_or(0) >= 1,
        // Their pods may be created from a later template.
        ("apps", "ReplicaSet") | ("", "ReplicationController") | ("batch", "CronJob") => false,
        _ => {
            let wanted = object.replicas.unwrap_or(1);
            wanted >= 1
                && status.updated_replicas == Some(wanted)
                && status.replicas == Some(wanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::workload::WorkloadKinds;

    fn progress(api_version: &str, kind: &str, spec: &Value, status: &Value) -> (bool, bool) {
        let custom = WorkloadKind::parse("argoproj.io/v1alpha1/Rollout=spec.template").unwrap();
        let kinds = WorkloadKinds::with_custom(vec![custom]);
        let kind = kinds.find_by_api_version(api_version, kind).unwrap();
        let metadata =
            json!({"name": "x", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"});
        let object = kind
            .parse_value(json!({"metadata": metadata, "spec": spec, "status": status}))
            .unwrap();
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        (is_in_progress(kind, &object, now), is_complete(kind, &object))
    }

    #[rstest]
    #[case::not_seen("apps/v1", "Deployment", json!({"replicas": 2}), json!({"observedGeneration": 1, "updatedReplicas": 2, "replicas": 2}), (true, false))]
    #[case::new("apps/v1", "Deployment", json!({"replicas": 2}), json!({}), (true, false))]
    #[case::half("apps/v1", "Deployment", json!({"replicas": 2}), json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 3}), (true, false))]
    #[case::old_ones_left("apps/v1", "Deployment", json!({"replicas": 2}), json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 3, "availableReplicas": 3}), (false, false))]
    #[case::pending("apps/v1", "Deployment", json!({"replicas": 2}), json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}), (true, true))]
    #[case::given_up("apps/v1", "Deployment", json!({"replicas": 2}), json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}), (false, true))]
    #[case::done("apps/v1", "Deployment", json!({"replicas": 2}), json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}), (false, true))]
    #[case::none_wanted("apps/v1", "Deployment", json!({"replicas": 0}), json!({"observedGeneration": 2}), (false, false))]
    #[case::set("apps/v1", "StatefulSet", json!({}), json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 1}), (false, true))]
    #[case::daemons("apps/v1", "DaemonSet", json!({}), json!({"observedGeneration": 2, "updatedNumberScheduled": 3, "desiredNumberScheduled": 5}), (true, false))]
    #[case::all_daemons("apps/v1", "DaemonSet", json!({}), json!({"observedGeneration": 2, "updatedNumberScheduled": 5, "desiredNumberScheduled": 5}), (false, true))]
    #[case::replica_set("apps/v1", "ReplicaSet", json!({"replicas": 3}), json!({"observedGeneration": 2, "replicas": 1}), (true, false))]
    #[case::controller("v1", "ReplicationController", json!({"replicas": 1}), json!({"observedGeneration": 2, "replicas": 1}), (false, false))]
    #[case::waiting_job("batch/v1", "Job", json!({}), json!({}), (true, false))]
    #[case::job("batch/v1", "Job", json!({}), json!({"startTime": "2026-01-01T00:00:00Z", "active": 1}), (false, true))]
    #[case::cron("batch/v1", "CronJob", json!({}), json!({}), (true, false))]
    #[case::rollout("argoproj.io/v1alpha1", "Rollout", json!({"replicas": 2}), json!({"observedGeneration": "2", "updatedReplicas": 1, "replicas": 2}), (true, false))]
    #[case::silent("argoproj.io/v1alpha1", "Rollout", json!({}), json!({}), (false, false))]
    fn rollouts(
        #[case] api_version: &str,
        #[case] kind: &str,
        #[case] spec: Value,
        #[case] status: Value,
        #[case] expected: (bool, bool),
    ) {
        assert_eq!(progress(api_version, kind, &spec, &status), expected);
    }
}
