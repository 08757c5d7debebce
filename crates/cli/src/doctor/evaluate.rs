//! Evaluation of the results: findings and remedies. Pure: no client, no clock, no I/O.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use kube::CustomResourceExt;
use prewarmer_core::{
    schedule::PrewarmSchedule,
    task::{PrewarmPlan, PrewarmTask},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    DoctorSettings,
    requests::{CRD_NAMES, SAMPLE_MARKER},
    results::{ClusterResults, DeploymentState, DryRunResult, QueryResult},
};

/// Oldest supported Kubernetes version: `ValidatingAdmissionPolicy` and match conditions are stable
/// since then.
const MIN_KUBERNETES_VERSION: (u32, u32) = (1, 30);
/// Largest tolerated difference of clocks. Larger ones falsify durations; with some minutes,
/// certificates are not yet valid.
const MAX_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_secs(5);
/// Age of the last renewal after which a Lease has no holder: its duration, and the time that a
/// successor needs.
const MAX_LEASE_AGE: SignedDuration = SignedDuration::from_secs(20);
/// Number of policies that reserve the labels of workers.
const RESERVED_POLICIES: usize = 3;
/// Number of policies that restrict the server's account.
const FENCE_POLICIES: usize = 3;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// The check passed.
    Ok,
    /// Not checked, because the caller lacks the permission.
    Skipped,
    /// Installation works, with a restriction.
    Warning,
    /// The check failed.
    Bad,
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Severity,
    /// Subject of the check.
    pub(super) area: &'static str,
    /// Observed state.
    pub(super) found: String,
    /// Remedy; empty where nothing needs to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) remedy: String,
}

fn finding(
    level: Severity,
    area: &'static str,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { level, area, found: found.into(), remedy: remedy.into() }
}

fn ok(area: &'static str, found: impl Into<String>) -> Finding {
    finding(Severity::Ok, area, found, "")
}

/// Returns the finding for a cluster that cannot be reached.
pub(super) fn connection_failed(error: &str) -> Finding {
    finding(
        Severity::Bad,
        "cluster",
        format!("cannot connect to the cluster: {error}"),
        "set KUBECONFIG, or run this in a pod",
    )
}

/// Returns a finding where there is no result to evaluate: no permission, or a failed request.
fn unavailable<T>(area: &'static str, seen: &QueryResult<T>, right: &str) -> Option<Finding> {
    match seen {
        QueryResult::Forbidden => Some(finding(
            Severity::Skipped,
            area,
            format!("not checked: you lack the permission to {right}"),
            "",
        )),
        QueryResult::Failed(error) => Some(finding(
            Severity::Bad,
            area,
            format!("request failed: {error}"),
            "check the API server, and the network connection to it",
        )),
        QueryResult::Found(_) | QueryResult::Absent => None,
    }
}

/// Evaluates the results.
pub(super) fn evaluate(answers: &ClusterResults, asked: &DoctorSettings) -> Vec<Finding> {
    let mut findings = vec![server(answers)];
    if let QueryResult::Failed(_) = answers.server {
        return findings;
    }
    findings.extend(clocks(answers));
    findings.extend(nodes(answers));
    if asked.pre {
        findings.push(own_permissions(answers));
        findings.push(existing_definitions(answers));
    } else {
        findings.extend(definitions(answers));
        findings.push(deployment(&answers.deployment, &asked.object_name, asked));
        if answers.controller.found().is_some() {
            findings.push(deployment(
                &answers.controller,
                &format!("{}-controller", asked.object_name),
                asked,
            ));
        }
        findings.extend(readiness(answers));
        findings.push(lease(answers, asked));
        findings.push(webhook(answers, asked));
        findings.extend(review(answers));
        findings.push(server_permissions(answers));
        findings.push(fence(answers));
        findings.push(reserved(answers));
        findings.push(foreign(answers));
        findings.extend(worker_secrets(answers, asked));
        findings.extend(failures(answers));
    }
    findings.extend(answers.workers.iter().map(|(namespace, seen)| worker(namespace, seen)));
    findings
}

fn server(answers: &ClusterResults) -> Finding {
    let area = "kubernetes";
    let Some(server) = answers.server.found() else {
        return unavailable(area, &answers.server, "read the version").unwrap_or_else(|| {
            finding(
                Severity::Bad,
                area,
                "no version reported",
                "check that this is a Kubernetes API server",
            )
        });
    };
    if server.version < MIN_KUBERNETES_VERSION {
        let found = format!("{} is not supported", server.text);
        return finding(
            Severity::Bad,
            area,
            found,
            format!(
                "upgrade to Kubernetes {}.{} or newer",
                MIN_KUBERNETES_VERSION.0, MIN_KUBERNETES_VERSION.1
            ),
        );
    }
    ok(area, server.text.clone())
}

fn clocks(answers: &ClusterResults) -> Option<Finding> {
    let (theirs, ours) = answers.server.found()?.clocks?;
    let apart = theirs.duration_since(ours).abs();
    // The time in the header is in whole seconds.
    if apart <= MAX_CLOCK_DIFFERENCE {
        return Some(ok("clocks", "the clocks of the API server and this machine agree"));
    }
    let found =
        format!("the clocks of the API server and this machine differ by {} s", apart.as_secs());
    Some(finding(
        Severity::Warning,
        "clocks",
        found,
        "synchronize both by NTP: certificates and durations depend on them",
    ))
}

fn nodes(answers: &ClusterResults) -> Vec<Finding> {
    let area = "nodes";
    let Some(nodes) = answers.nodes.found() else {
        return unavailable(area, &answers.nodes, "list nodes").into_iter().collect();
    };
    let volumes = nodes.iter().filter(|node| node.supports_image_volumes()).count();
    let linux = nodes.iter().filter(|node| &*node.os != "windows").count();
    let mut findings = Vec::new();
    if nodes.is_empty() {
        findings.push(finding(
            Severity::Warning,
            area,
            "the cluster has no nodes",
            "add nodes: images are pulled to existing nodes only",
        ));
        return findings;
    }
    let helper = linux - volumes;
    findings.push(ok(
        area,
        format!("{linux} Linux nodes: {volumes} pull by image volumes, {helper} by the helper (older kubelet or runtime)"),
    ));
    let windows = nodes.len() - linux;
    if windows > 0 {
        let found = format!("{windows} Windows nodes");
        findings.push(finding(
            Severity::Warning,
            area,
            found,
            "images are pulled to Linux nodes only",
        ));
    }
    let architectures: BTreeSet<&str> = nodes.iter().map(|node| &*node.architecture).collect();
    let other: Vec<&str> =
        architectures.into_iter().filter(|name| !matches!(*name, "amd64" | "arm64")).collect();
    if !other.is_empty() {
        let found = format!("unsupported architectures: {}", other.join(", "));
        let remedy = "the helper is built for amd64 and arm64: build it for these too, or exclude the nodes by nodeSelector";
        findings.push(finding(Severity::Warning, area, found, remedy));
    }
    findings
}

fn own_permissions(answers: &ClusterResults) -> Finding {
    permissions(
        "your RBAC",
        &answers.own_permissions,
        "you may create every object of an installation",
        "you lack permissions",
        "let a cluster administrator install Prewarmer",
    )
}

fn server_permissions(answers: &ClusterResults) -> Finding {
    permissions(
        "server RBAC",
        &answers.server_permissions,
        "the server's accounts have the required permissions",
        "the server's accounts lack permissions",
        "upgrade the chart, or apply deploy/prewarmer.yaml again: roles are missing or outdated",
    )
}

fn permissions(
    area: &'static str,
    all: &[(String, QueryResult<bool>)],
    good: &str,
    bad: &str,
    remedy: &str,
) -> Finding {
    if let Some(unseen) =
        all.iter().find_map(|(_, seen)| unavailable(area, seen, "create SubjectAccessReviews"))
    {
        return unseen;
    }
    let missing: Vec<&str> = all
        .iter()
        .filter(|(_, seen)| seen.found() != Some(&true))
        .map(|(right, _)| right.as_str())
        .collect();
    if missing.is_empty() {
        return ok(area, good);
    }
    finding(Severity::Bad, area, format!("{bad}: {}", missing.join("; ")), remedy)
}

/// Returns the finding about definitions that an earlier installation has left. Checked before an
/// installation.
fn existing_definitions(answers: &ClusterResults) -> Finding {
    let there: Vec<&str> = answers
        .definitions
        .iter()
        .filter(|(_, seen)| seen.found().is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    if there.is_empty() {
        return ok("definitions", "none installed yet");
    }
    let remedy = "an upgrade keeps them; set crds.install=false for a second installation";
    finding(
        Severity::Warning,
        "definitions",
        format!("already installed: {}", there.join(", ")),
        remedy,
    )
}

/// Collects the paths of all fields of a schema.
fn collect_fields(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect_fields(field, &path, into);
        collect_fields(&field["items"], &path, into);
        into.insert(path);
    }
}

fn schema_fields(definition: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        collect_fields(&version["schema"]["openAPIV3Schema"], "", &mut all);
    }
    all
}

fn expected(name: &str) -> Value {
    let definition = match name {
        "prewarmtasks.prewarm.io" => PrewarmTask::crd(),
        "prewarmplans.prewarm.io" => PrewarmPlan::crd(),
        _ => PrewarmSchedule::crd(),
    };
    serde_json::to_value(definition).unwrap_or_default()
}

fn definitions(answers: &ClusterResults) -> Vec<Finding> {
    let area = "definitions";
    let mut findings = Vec::new();
    for name in CRD_NAMES {
        let Some(seen) = answers.definitions.get(name) else { continue };
        if let Some(unseen) = unavailable(area, seen, "read custom resource definitions") {
            return vec![unseen];
        }
        let Some(found) = seen.found() else {
            let remedy = "install the chart with crds.install=true, or apply deploy/crds.yaml";
            findings.push(finding(Severity::Bad, area, format!("{name} is missing"), remedy));
            continue;
        };
        let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let established =
            conditions.clone().any(|c| c["type"] == "Established" && c["status"] == "True");
        let missing: Vec<String> = schema_fields(&expected(name))
            .difference(&schema_fields(found))
            .take(3)
            .cloned()
            .collect();
        if !established {
            let remedy = format!("see the conditions: kubectl describe crd {name}");
            findings.push(finding(
                Severity::Bad,
                area,
                format!("{name} is not established"),
                remedy,
            ));
        } else if !missing.is_empty() {
            let found =
                format!("{name} is older than this program; missing: {}", missing.join(", "));
            findings.push(finding(
                Severity::Bad,
                area,
                found,
                "upgrade the chart, or apply deploy/crds.yaml",
            ));
        }
    }
    if findings.is_empty() {
        vec![ok(area, "all three are installed and current")]
    } else {
        findings
    }
}

fn deployment(seen: &QueryResult<DeploymentState>, name: &str, asked: &DoctorSettings) -> Finding {
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
            "kubectl -n {0} describe pods -l app.kubernetes.io/part-of=prewarmer; kubectl -n {0} logs deployment/{name}",
            asked.namespace
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

fn readiness(answers: &ClusterResults) -> Option<Finding> {
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

fn lease(answers: &ClusterResults, asked: &DoctorSettings) -> Finding {
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

fn webhook(answers: &ClusterResults, asked: &DoctorSettings) -> Finding {
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

fn review(answers: &ClusterResults) -> Option<Finding> {
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
            "the API server does not reach the webhook: workloads are admitted without it, and warmed some seconds later",
            "check that the control plane can connect to port 8443 of the pods (cloud firewall, NetworkPolicy), and the \
             metric apiserver_admission_webhook_fail_open_count; with --watch-namespace on the server, set it here too",
        )),
    }
}

fn fence(answers: &ClusterResults) -> Finding {
    let area = "fence";
    if let Some(unseen) =
        unavailable(area, &answers.fence_policies, "list ValidatingAdmissionPolicyBindings")
    {
        return unseen;
    }
    match answers.fence_policies.found() {
        Some(&count) if count >= FENCE_POLICIES => {
            ok(area, "the server's account can create worker pods only")
        }
        _ => finding(
            Severity::Warning,
            area,
            "no policy restricts which pods the server's account may create",
            "set fence.enabled=true; until then protect its token like an administrator's",
        ),
    }
}

fn reserved(answers: &ClusterResults) -> Finding {
    let area = "labels";
    if let Some(unseen) =
        unavailable(area, &answers.reserved_policies, "list ValidatingAdmissionPolicyBindings")
    {
        return unseen;
    }
    match answers.reserved_policies.found() {
        Some(&count) if count >= RESERVED_POLICIES => {
            ok(area, "only the server can create Jobs and pods with the labels of workers")
        }
        _ => finding(
            Severity::Warning,
            area,
            "other users can create Jobs and pods with the labels of workers; the server ignores objects that it did not create",
            "set reservedLabels.enabled=true",
        ),
    }
}

fn foreign(answers: &ClusterResults) -> Finding {
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
            let remedy = "find their creator, and delete them: kubectl get jobs,pods -A -l \
                          app.kubernetes.io/managed-by=prewarmer; reservedLabels.enabled=true rejects further ones";
            finding(Severity::Warning, area, found, remedy)
        }
        _ => ok(
            area,
            "every Job and pod with the labels of workers was created by this installation",
        ),
    }
}

fn worker_secrets(answers: &ClusterResults, asked: &DoctorSettings) -> Option<Finding> {
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

fn failures(answers: &ClusterResults) -> Option<Finding> {
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

fn worker(namespace: &str, seen: &QueryResult<DryRunResult>) -> Finding {
    let area = "namespace";
    match seen {
        QueryResult::Found(DryRunResult::Accepted(_)) => {
            ok(area, format!("{namespace} admits worker pods"))
        }
        QueryResult::Found(DryRunResult::Refused(why)) => finding(
            Severity::Bad,
            area,
            format!("{namespace} rejects worker pods: {why}"),
            "raise the quota, exempt pods with the label app.kubernetes.io/managed-by=prewarmer from the policy, or set \
             workerNamespace: Fallback",
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

#[cfg(test)]
mod tests;
