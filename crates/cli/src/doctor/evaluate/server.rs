//! Evaluation of the server: its Deployments, readiness and leader.

use jiff::SignedDuration;
use prewarmer_core::labels::{self, PART_OF};
use serde_json::Value;

use crate::doctor::{
    finding::{Finding, Severity, finding, ok, unavailable},
    results::{ClusterResults, DeploymentState, QueryResult},
    settings::DoctorSettings,
};

/// Age of the last renewal after which a Lease has no holder: its duration, and the time that a
/// successor needs.
const MAX_LEASE_AGE: SignedDuration = SignedDuration::from_secs(20);

pub(super) fn deployment(
    seen: &QueryResult<DeploymentState>,
    name: &str,
    asked: &DoctorSettings,
) -> Finding {
    let area = "server";
    if let Some(unseen) = unavailable(area, seen, "read Deployments") {
        return unseen;
    }
    let place = format!("{}/{name}", asked.namespace);
    let Some(found) = seen.found() else {
        let remedy = "install Prewarmer, or set --namespace and --instance";
        return finding(Severity::Bad, area, format!("Deployment {place} not found"), remedy);
    };
    let count = format!("{place}: {} of {} replicas are ready", found.ready, found.desired);
    if found.ready == 0 {
        let remedy = format!(
            "kubectl -n {0} describe pods -l {1}; kubectl -n {0} logs deployment/{name}",
            asked.namespace,
            labels::selector(PART_OF)
        );
        return finding(Severity::Bad, area, count, remedy);
    }
    if found.ready < found.desired || found.desired < 2 {
        let remedy =
            "run two ready replicas: when the leader stops, the other one leads within 15 s";
        return finding(Severity::Warning, area, count, remedy);
    }
    ok(area, format!("{count}, {}", found.image))
}

pub(super) fn readiness(answers: &ClusterResults) -> Option<Finding> {
    let area = "readiness";
    let body = match &answers.readiness {
        QueryResult::Found(body) => body,
        // A missing Deployment is reported by its own check.
        QueryResult::Absent => return None,
        QueryResult::Forbidden => {
            return unavailable(area, &answers.readiness, "get services/proxy");
        }
        QueryResult::Failed(error) => {
            let remedy = "check that the Service has endpoints, and that the API server can reach pods on port 9090 \
                          (networkPolicy.apiServerCidrs)";
            return Some(finding(
                Severity::Warning,
                area,
                format!("request through the Service failed: {error}"),
                remedy,
            ));
        }
    };
    let waiting: Vec<&str> =
        body["waitingFor"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if waiting.is_empty() {
        return Some(ok(area, "a replica behind the Service is ready"));
    }
    let remedy = "see the replica's log; docs/troubleshooting.md lists causes";
    Some(finding(
        Severity::Bad,
        area,
        format!("a replica is not ready: {}", waiting.join("; ")),
        remedy,
    ))
}

pub(super) fn lease(answers: &ClusterResults, asked: &DoctorSettings) -> Finding {
    let area = "leader";
    if let Some(unseen) = unavailable(area, &answers.lease, "read Leases") {
        return unseen;
    }
    let name = match &answers.controller {
        QueryResult::Found(_) => format!("{}-controller", asked.object_name),
        _ => asked.object_name.clone(),
    };
    let remedy = format!("see the log: kubectl -n {} logs deployment/{name}", asked.namespace);
    let Some(lease) = answers.lease.found().filter(|lease| !lease.holder.is_empty()) else {
        return finding(
            Severity::Bad,
            area,
            "no replica is the leader: tasks are not processed",
            remedy,
        );
    };
    let age = lease.renewed.map(|renewed| answers.now.duration_since(renewed));
    match age {
        Some(age) if age <= MAX_LEASE_AGE => ok(area, format!("{} is the leader", lease.holder)),
        Some(age) => {
            let found = format!(
                "{} was the leader, but has not renewed the Lease for {} s",
                lease.holder,
                age.as_secs()
            );
            finding(Severity::Bad, area, found, remedy)
        }
        None => finding(
            Severity::Bad,
            area,
            format!("{} holds the Lease, but never renewed it", lease.holder),
            remedy,
        ),
    }
}
