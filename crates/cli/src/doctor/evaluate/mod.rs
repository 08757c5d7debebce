//! Evaluation of the results: findings and remedies. Pure: no client, no clock, no I/O.

mod admission;
mod cluster;
mod definitions;
mod permissions;
mod policies;
mod server;
mod workers;

use super::{
    finding::{Finding, Severity, finding},
    results::{ClusterResults, QueryResult},
    settings::DoctorSettings,
};

/// Returns the finding for a cluster that cannot be reached.
pub(super) fn connection_failed(error: &str) -> Finding {
    finding(
        Severity::Bad,
        "cluster",
        format!("cannot connect to the cluster: {error}"),
        "set KUBECONFIG, or run this in a pod",
    )
}

/// Evaluates the results.
pub(super) fn evaluate(answers: &ClusterResults, asked: &DoctorSettings) -> Vec<Finding> {
    let mut findings = vec![cluster::server(answers)];
    if let QueryResult::Failed(_) = answers.server {
        return findings;
    }
    findings.extend(cluster::clocks(answers));
    findings.extend(cluster::nodes(answers));
    if asked.pre {
        findings.push(permissions::own_permissions(answers));
        findings.push(definitions::existing_definitions(answers));
    } else {
        findings.extend(definitions::definitions(answers));
        findings.push(server::deployment(&answers.deployment, &asked.object_name, asked));
        if answers.controller.found().is_some() {
            findings.push(server::deployment(
                &answers.controller,
                &format!("{}-controller", asked.object_name),
                asked,
            ));
        }
        findings.extend(server::readiness(answers));
        findings.push(server::lease(answers, asked));
        findings.push(admission::webhook(answers, asked));
        findings.extend(admission::review(answers));
        findings.push(permissions::server_permissions(answers));
        findings.push(policies::fence(answers));
        findings.push(policies::reserved(answers));
        findings.push(workers::foreign(answers));
        findings.extend(workers::worker_secrets(answers, asked));
        findings.extend(workers::failures(answers));
    }
    findings
        .extend(answers.workers.iter().map(|(namespace, seen)| workers::worker(namespace, seen)));
    findings
}

#[cfg(test)]
mod tests;
