//! Evaluation of workers: foreign ones, their account, the namespaces that admit them, and their
//! failures.

use prewarmer_core::labels::{self, MANAGED_BY};

use crate::doctor::{
    finding::{Finding, Severity, finding, ok, unavailable},
    results::{ClusterResults, DryRunResult, QueryResult},
    settings::DoctorSettings,
};

pub(super) fn foreign(answers: &ClusterResults) -> Finding {
    let area = "workers";
    if let Some(unseen) = unavailable(area, &answers.foreign, "list Jobs, pods and PrewarmTasks") {
        return unseen;
    }
    match answers.foreign.found() {
        Some(foreign) if foreign.count > 0 => {
            let more = foreign.count.saturating_sub(foreign.examples.len());
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let found = format!(
                "{} Jobs and pods have the labels of workers, but were not created by this installation, and are ignored: {}{more}",
                foreign.count,
                foreign.examples.join("; ")
            );
            let remedy = format!(
                "find their creator, and delete them: kubectl get jobs,pods -A -l {}; \
                 reservedLabels.enabled=true rejects further ones",
                labels::selector(MANAGED_BY)
            );
            finding(Severity::Warning, area, found, remedy)
        }
        _ => ok(
            area,
            "every Job and pod with the labels of workers was created by this installation",
        ),
    }
}

pub(super) fn worker_secrets(answers: &ClusterResults, asked: &DoctorSettings) -> Option<Finding> {
    let secrets = answers.worker_secrets.found().filter(|secrets| !secrets.is_empty())?;
    let found = format!(
        "the service account {}/{}-worker has image pull secrets ({}): workers in this namespace use them for tasks of all namespaces",
        asked.namespace,
        asked.object_name,
        secrets.join(", ")
    );
    let remedy = "remove its imagePullSecrets, and exclude it from the automation that adds them";
    Some(finding(Severity::Warning, "worker account", found, remedy))
}

pub(super) fn failures(answers: &ClusterResults) -> Option<Finding> {
    let reasons = answers.failures.found()?;
    if reasons.is_empty() {
        return Some(ok("tasks", "no failed nodes in the latest tasks"));
    }
    let list: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let remedy = "see docs/tasks.md for the reasons, and kubectl get prewarmtasks -A for the tasks";
    Some(finding(
        Severity::Warning,
        "tasks",
        format!("failed nodes in the latest tasks: {}", list.join(", ")),
        remedy,
    ))
}

pub(super) fn worker(namespace: &str, seen: &QueryResult<DryRunResult>) -> Finding {
    let area = "namespace";
    match seen {
        QueryResult::Found(DryRunResult::Accepted(_)) => {
            ok(area, format!("{namespace} admits worker pods"))
        }
        QueryResult::Found(DryRunResult::Refused(why)) => finding(
            Severity::Bad,
            area,
            format!("{namespace} rejects worker pods: {why}"),
            format!(
                "raise the quota, exempt pods with the label {} from the policy, or set \
                 workerNamespace: Fallback",
                labels::selector(MANAGED_BY)
            ),
        ),
        QueryResult::Absent => finding(
            Severity::Bad,
            area,
            format!("namespace {namespace} not found"),
            "set an existing namespace by --namespaces",
        ),
        QueryResult::Forbidden | QueryResult::Failed(_) => {
            unavailable(area, seen, &format!("create pods in {namespace}"))
                .unwrap_or_else(|| ok(area, namespace.to_owned()))
        }
    }
}
