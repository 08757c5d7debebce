//! Evaluation of admission: the registration of the webhook, and calls of it.

use crate::doctor::{
    dry_run::SAMPLE_MARKER,
    finding::{Finding, Severity, finding, ok, unavailable},
    results::{ClusterResults, DryRunResult, QueryResult},
    settings::DoctorSettings,
};

pub(super) fn webhook(answers: &ClusterResults, asked: &DoctorSettings) -> Finding {
    let area = "webhook";
    if let Some(unseen) = unavailable(area, &answers.webhook, "read webhook configurations") {
        return unseen;
    }
    let name = &asked.object_name;
    let Some(found) = answers.webhook.found() else {
        let remedy = "upgrade the chart: it creates the configuration, and the leader completes it";
        return finding(
            Severity::Bad,
            area,
            format!("ValidatingWebhookConfiguration {name} not found"),
            remedy,
        );
    };
    if found.webhooks == 0 || !found.trusted {
        let remedy = "the leader completes it within seconds: see the leader's log for errors";
        return finding(
            Severity::Bad,
            area,
            format!("{name} has not been completed by the leader yet"),
            remedy,
        );
    }
    ok(area, format!("{name} is registered with a CA"))
}

pub(super) fn review(answers: &ClusterResults) -> Option<Finding> {
    let area = "admission";
    match &answers.sample_review {
        QueryResult::Absent | QueryResult::Forbidden => Some(finding(
            Severity::Skipped,
            area,
            "not checked: you lack the permission to create Deployments there",
            "",
        )),
        QueryResult::Failed(_) => unavailable(area, &answers.sample_review, ""),
        QueryResult::Found(DryRunResult::Refused(why)) => Some(finding(
            Severity::Warning,
            area,
            format!("not checked: the sample workload was rejected: {why}"),
            "set another namespace by --review-in",
        )),
        QueryResult::Found(DryRunResult::Accepted(warnings))
            if warnings.iter().any(|text| text.contains(SAMPLE_MARKER)) =>
        {
            Some(ok(area, "the API server calls the webhook, trusts it, and forwards its warnings"))
        }
        QueryResult::Found(DryRunResult::Accepted(_)) => Some(finding(
            Severity::Bad,
            area,
            "the API server does not reach the webhook, or does not trust its certificate: workloads are admitted without it, and warmed some seconds later",
            "after an upgrade, check again in 30 s; then check that the control plane can connect to port 8443 of the \
             pods (cloud firewall, NetworkPolicy), and the metric apiserver_admission_webhook_fail_open_count; with --watch-namespace on the server, set it here too",
        )),
    }
}
