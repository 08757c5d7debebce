//! What the answers mean, and what to do. *Pure.*

use std::collections::BTreeSet;

use jiff::SignedDuration;
use kube::CustomResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::{
    answers::{Answers, Deployed, Rehearsal, Seen},
    ask::{DEFINITIONS, MARK},
};
use crate::{
    config::Doctor,
    schedule::PrewarmSchedule,
    task::{PrewarmPlan, PrewarmTask},
};

/// The oldest Kubernetes that has what the install needs: `ValidatingAdmissionPolicy` and match conditions are stable there.
const OLDEST: (u32, u32) = (1, 30);
/// Clocks that differ by more give wrong durations; by some minutes, certificates that are not valid yet.
const CLOCKS: SignedDuration = SignedDuration::from_secs(5);
/// A Lease that was not renewed for so long has no holder: its duration, and what a successor needs.
const LEASE: SignedDuration = SignedDuration::from_secs(20);
/// Policies that reserve the labels of workers.
const RESERVED: usize = 3;
/// Policies of the fence.
const FENCE: usize = 3;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Whoever asks may not know.
    Skipped,
    /// It works, and something should be known.
    Warning,
    /// It does not work.
    Bad,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is about.
    pub(super) area: &'static str,
    /// What was found.
    pub(super) found: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) remedy: String,
}

fn finding(level: Level, area: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level, area, found: found.into(), remedy: remedy.into() }
}

fn ok(area: &'static str, found: impl Into<String>) -> Finding {
    finding(Level::Ok, area, found, "")
}

/// There is no cluster to ask.
pub(super) fn no_way(error: &str) -> Finding {
    finding(Level::Bad, "cluster", format!("no way to the cluster: {error}"), "set KUBECONFIG, or run this in a pod")
}

/// What is not there to be judged: not to be seen, or no answer.
fn unseen<T>(area: &'static str, seen: &Seen<T>, right: &str) -> Option<Finding> {
    match seen {
        Seen::Forbidden => Some(finding(Level::Skipped, area, format!("not checked: you may not {right}"), "")),
        Seen::Failed(error) => Some(finding(
            Level::Bad,
            area,
            format!("no answer: {error}"),
            "see whether the API server is well, and this machine's way to it",
        )),
        Seen::Is(_) | Seen::Absent => None,
    }
}

/// Makes findings of the answers.
pub(super) fn judge(answers: &Answers, asked: &Doctor) -> Vec<Finding> {
    let mut findings = vec![server(answers)];
    if let Seen::Failed(_) = answers.server {
        return findings;
    }
    findings.extend(clocks(answers));
    findings.extend(nodes(answers));
    if asked.pre {
        findings.push(own_rights(answers));
        findings.push(earlier(answers));
    } else {
        findings.extend(definitions(answers));
        findings.push(deployment(&answers.deployment, &asked.object_name, asked));
        if answers.controller.is().is_some() {
            findings.push(deployment(&answers.controller, &format!("{}-controller", asked.object_name), asked));
        }
        findings.extend(ready(answers));
        findings.push(lead(answers, asked));
        findings.push(webhook(answers, asked));
        findings.extend(review(answers));
        findings.push(server_rights(answers));
        findings.push(fence(answers));
        findings.push(reserved(answers));
        findings.push(foreign(answers));
        findings.extend(worker_secrets(answers, asked));
        findings.extend(failures(answers));
    }
    findings.extend(answers.workers.iter().map(|(namespace, seen)| worker(namespace, seen)));
    findings
}

fn server(answers: &Answers) -> Finding {
    let area = "kubernetes";
    let Some(server) = answers.server.is() else {
        return unseen(area, &answers.server, "ask for its version")
            .unwrap_or_else(|| finding(Level::Bad, area, "it tells no version", "is this a Kubernetes API server?"));
    };
    if server.version < OLDEST {
        let found = format!("{}: too old", server.text);
        return finding(Level::Bad, area, found, format!("Prewarmer needs {}.{} or newer", OLDEST.0, OLDEST.1));
    }
    ok(area, server.text.clone())
}

fn clocks(answers: &Answers) -> Option<Finding> {
    let (theirs, ours) = answers.server.is()?.clocks?;
    let apart = theirs.duration_since(ours).abs();
    // The header's time is in whole seconds.
    if apart <= CLOCKS {
        return Some(ok("clocks", "the API server's and this machine's agree"));
    }
    let found = format!("the API server's and this machine's differ by {} s", apart.as_secs());
    Some(finding(Level::Warning, "clocks", found, "set both by NTP: certificates and durations depend on them"))
}

fn nodes(answers: &Answers) -> Vec<Finding> {
    let area = "nodes";
    let Some(nodes) = answers.nodes.is() else {
        return unseen(area, &answers.nodes, "list nodes").into_iter().collect();
    };
    let volumes = nodes.iter().filter(|node| node.mounts_image_volumes()).count();
    let linux = nodes.iter().filter(|node| &*node.os != "windows").count();
    let mut findings = Vec::new();
    if nodes.is_empty() {
        findings.push(finding(Level::Warning, area, "there are none", "nothing can be warmed before there are nodes"));
        return findings;
    }
    let helper = linux - volumes;
    findings.push(ok(
        area,
        format!("{linux} can be warmed: {volumes} by image volumes, {helper} by the helper (older kubelet or runtime)"),
    ));
    let windows = nodes.len() - linux;
    if windows > 0 {
        let found = format!("{windows} run Windows");
        findings.push(finding(Level::Warning, area, found, "images are pulled to Linux nodes only"));
    }
    let architectures: BTreeSet<&str> = nodes.iter().map(|node| &*node.architecture).collect();
    let other: Vec<&str> = architectures.into_iter().filter(|name| !matches!(*name, "amd64" | "arm64")).collect();
    if !other.is_empty() {
        let found = format!("some are {}", other.join(", "));
        let remedy = "the helper is built for amd64 and arm64: build it for these, or leave them out by nodeSelector";
        findings.push(finding(Level::Warning, area, found, remedy));
    }
    findings
}

fn own_rights(answers: &Answers) -> Finding {
    rights(
        "your rights",
        &answers.own_rights,
        "you may install",
        "you may not",
        "have somebody install it who may: a cluster administrator",
    )
}

fn server_rights(answers: &Answers) -> Finding {
    rights(
        "server's rights",
        &answers.server_rights,
        "it may do what it must",
        "its account may not",
        "upgrade the chart, or apply deploy/prewarmer.yaml again: its roles are missing or old",
    )
}

fn rights(area: &'static str, all: &[(String, Seen<bool>)], good: &str, bad: &str, remedy: &str) -> Finding {
    if let Some(unseen) = all.iter().find_map(|(_, seen)| unseen(area, seen, "ask what somebody may do")) {
        return unseen;
    }
    let missing: Vec<&str> =
        all.iter().filter(|(_, seen)| seen.is() != Some(&true)).map(|(right, _)| right.as_str()).collect();
    if missing.is_empty() {
        return ok(area, good);
    }
    finding(Level::Bad, area, format!("{bad}: {}", missing.join("; ")), remedy)
}

/// Before an installation: what an earlier one has left.
fn earlier(answers: &Answers) -> Finding {
    let there: Vec<&str> =
        answers.definitions.iter().filter(|(_, seen)| seen.is().is_some()).map(|(name, _)| name.as_str()).collect();
    if there.is_empty() {
        return ok("definitions", "none is there yet");
    }
    let remedy = "an upgrade goes on with them; a second installation needs crds.install=false";
    finding(Level::Warning, "definitions", format!("there are already {}", there.join(", ")), remedy)
}

/// The names of all fields that a definition knows, with their paths.
fn fields(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields(field, &path, into);
        fields(&field["items"], &path, into);
        into.insert(path);
    }
}

fn schema_fields(definition: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        fields(&version["schema"]["openAPIV3Schema"], "", &mut all);
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

fn definitions(answers: &Answers) -> Vec<Finding> {
    let area = "definitions";
    let mut findings = Vec::new();
    for name in DEFINITIONS {
        let Some(seen) = answers.definitions.get(name) else { continue };
        if let Some(unseen) = unseen(area, seen, "read custom resource definitions") {
            return vec![unseen];
        }
        let Some(found) = seen.is() else {
            let remedy = "install the chart with crds.install=true, or apply deploy/crds.yaml";
            findings.push(finding(Level::Bad, area, format!("{name} is missing"), remedy));
            continue;
        };
        let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let established = conditions.clone().any(|c| c["type"] == "Established" && c["status"] == "True");
        let missing: Vec<String> =
            schema_fields(&expected(name)).difference(&schema_fields(found)).take(3).cloned().collect();
        if !established {
            let remedy = format!("kubectl describe crd {name} says why");
            findings.push(finding(Level::Bad, area, format!("{name} is not established"), remedy));
        } else if !missing.is_empty() {
            let found = format!("{name} is older than this program: it lacks {}", missing.join(", "));
            findings.push(finding(Level::Bad, area, found, "upgrade the chart, or apply deploy/crds.yaml"));
        }
    }
    if findings.is_empty() { vec![ok(area, "all three are there, and current")] } else { findings }
}

fn deployment(seen: &Seen<Deployed>, name: &str, asked: &Doctor) -> Finding {
    let area = "server";
    if let Some(unseen) = unseen(area, seen, "read Deployments") {
        return unseen;
    }
    let place = format!("{}/{name}", asked.namespace);
    let Some(found) = seen.is() else {
        let remedy = "install it, or name where it is by --namespace and --instance";
        return finding(Level::Bad, area, format!("there is no Deployment {place}"), remedy);
    };
    let count = format!("{place}: {} of {} replicas are ready", found.ready, found.wanted);
    if found.ready == 0 {
        let remedy = format!(
            "kubectl -n {0} describe pods -l app.kubernetes.io/part-of=prewarmer; kubectl -n {0} logs deployment/{name}",
            asked.namespace
        );
        return finding(Level::Bad, area, count, remedy);
    }
    if found.ready < found.wanted || found.wanted < 2 {
        let remedy = "with two replicas another leads within 15 s when one ends";
        return finding(Level::Warning, area, count, remedy);
    }
    ok(area, format!("{count}, {}", found.image))
}

fn ready(answers: &Answers) -> Option<Finding> {
    let area = "readiness";
    let body = match &answers.ready {
        Seen::Is(body) => body,
        // Without a Deployment there is none; that has been said.
        Seen::Absent => return None,
        Seen::Forbidden => return unseen(area, &answers.ready, "get services/proxy"),
        Seen::Failed(error) => {
            let remedy = "see whether the Service has endpoints, and whether the API server may reach pods on port 9090 \
                 (networkPolicy.apiServerCidrs)";
            return Some(finding(Level::Warning, area, format!("no answer through the Service: {error}"), remedy));
        }
    };
    let waiting: Vec<&str> = body["waitingFor"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if waiting.is_empty() {
        return Some(ok(area, "a replica, asked through the Service, is ready"));
    }
    let remedy = "its log says more; docs/troubleshooting.md has the causes";
    Some(finding(Level::Bad, area, format!("a replica waits: {}", waiting.join("; ")), remedy))
}

fn lead(answers: &Answers, asked: &Doctor) -> Finding {
    let area = "leader";
    if let Some(unseen) = unseen(area, &answers.lead, "read Leases") {
        return unseen;
    }
    let name = match &answers.controller {
        Seen::Is(_) => format!("{}-controller", asked.object_name),
        _ => asked.object_name.clone(),
    };
    let remedy = format!("kubectl -n {} logs deployment/{name} says why no replica leads", asked.namespace);
    let Some(lease) = answers.lead.is().filter(|lease| !lease.holder.is_empty()) else {
        return finding(Level::Bad, area, "no replica leads: tasks are made and not worked on", remedy);
    };
    let age = lease.renewed.map(|renewed| answers.now.duration_since(renewed));
    match age {
        Some(age) if age <= LEASE => ok(area, format!("{} leads", lease.holder)),
        Some(age) => {
            let found = format!("{} led, and has not renewed its Lease for {} s", lease.holder, age.as_secs());
            finding(Level::Bad, area, found, remedy)
        }
        None => finding(Level::Bad, area, format!("{} holds the Lease, and never renewed it", lease.holder), remedy),
    }
}

fn webhook(answers: &Answers, asked: &Doctor) -> Finding {
    let area = "webhook";
    if let Some(unseen) = unseen(area, &answers.registered, "read webhook configurations") {
        return unseen;
    }
    let name = &asked.object_name;
    let Some(found) = answers.registered.is() else {
        let remedy = "upgrade the chart: the configuration is its own, and the server fills it";
        return finding(Level::Bad, area, format!("there is no ValidatingWebhookConfiguration {name}"), remedy);
    };
    if found.webhooks == 0 || !found.trusted {
        let remedy = "the leader fills it within seconds: its log says what keeps it";
        return finding(Level::Bad, area, format!("{name} is not filled by the server yet"), remedy);
    }
    ok(area, format!("{name} is registered, with a CA"))
}

fn review(answers: &Answers) -> Option<Finding> {
    let area = "admission";
    match &answers.review {
        Seen::Absent | Seen::Forbidden => {
            Some(finding(Level::Skipped, area, "not checked: you may not create Deployments there", ""))
        }
        Seen::Failed(_) => unseen(area, &answers.review, ""),
        Seen::Is(Rehearsal::Refused(why)) => Some(finding(
            Level::Warning,
            area,
            format!("not checked: the sample workload was refused: {why}"),
            "name another namespace by --review-in",
        )),
        Seen::Is(Rehearsal::Accepted(warnings)) if warnings.iter().any(|text| text.contains(MARK)) => {
            Some(ok(area, "the API server reaches the webhook, trusts it, and passes on what it says"))
        }
        Seen::Is(Rehearsal::Accepted(_)) => Some(finding(
            Level::Bad,
            area,
            "the API server does not reach the webhook: workloads are admitted unseen, and warmed some seconds late",
            "see that the control plane may connect to the pods' port 8443 (a firewall of the cloud's, a NetworkPolicy), \
             and the metric apiserver_admission_webhook_fail_open_count; with watch-namespace, name it here too",
        )),
    }
}

fn fence(answers: &Answers) -> Finding {
    let area = "fence";
    if let Some(unseen) = unseen(area, &answers.fence, "list ValidatingAdmissionPolicyBindings") {
        return unseen;
    }
    match answers.fence.is() {
        Some(&count) if count >= FENCE => ok(area, "the server's account can make the pods that pull, and no others"),
        _ => finding(
            Level::Warning,
            area,
            "nothing limits which pods the server's account may make",
            "set fence.enabled=true, and keep its token as safe as an administrator's until then",
        ),
    }
}

fn reserved(answers: &Answers) -> Finding {
    let area = "labels";
    if let Some(unseen) = unseen(area, &answers.reserved, "list ValidatingAdmissionPolicyBindings") {
        return unseen;
    }
    match answers.reserved.is() {
        Some(&count) if count >= RESERVED => {
            ok(area, "only the server can make Jobs and pods with the labels of workers")
        }
        _ => finding(
            Level::Warning,
            area,
            "nothing keeps others from making Jobs and pods with the labels of workers; the server ignores what it did not make",
            "set reservedLabels.enabled=true",
        ),
    }
}

fn foreign(answers: &Answers) -> Finding {
    let area = "workers";
    if let Some(unseen) = unseen(area, &answers.foreign, "list Jobs, pods and PrewarmTasks") {
        return unseen;
    }
    match answers.foreign.is() {
        Some(foreign) if foreign.number > 0 => {
            let more = foreign.number.saturating_sub(foreign.named.len());
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let found = format!(
                "{} Jobs and pods have the labels of workers, were not made by this installation, and are ignored: {}{more}",
                foreign.number,
                foreign.named.join("; ")
            );
            let remedy = "find out who makes them, and delete them: kubectl get jobs,pods -A -l \
                          app.kubernetes.io/managed-by=prewarmer; reservedLabels.enabled=true refuses further ones";
            finding(Level::Warning, area, found, remedy)
        }
        _ => ok(area, "every Job and pod with the labels of workers is one of this installation's"),
    }
}

fn worker_secrets(answers: &Answers, asked: &Doctor) -> Option<Finding> {
    let secrets = answers.worker_secrets.is().filter(|secrets| !secrets.is_empty())?;
    let found = format!(
        "the service account {}/{}-worker has image pull secrets ({}): workers in this namespace pull with them for tasks of all",
        asked.namespace,
        asked.object_name,
        secrets.join(", ")
    );
    let remedy = "remove imagePullSecrets from it, and keep from it whatever adds them";
    Some(finding(Level::Warning, "worker account", found, remedy))
}

fn failures(answers: &Answers) -> Option<Finding> {
    let reasons = answers.failures.is()?;
    if reasons.is_empty() {
        return Some(ok("tasks", "no node of the latest tasks has failed"));
    }
    let list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let remedy = "docs/tasks.md says what each reason means; kubectl get prewarmtasks -A shows the tasks";
    Some(finding(Level::Warning, "tasks", format!("nodes failed in the latest tasks: {}", list.join(", ")), remedy))
}

fn worker(namespace: &str, seen: &Seen<Rehearsal>) -> Finding {
    let area = "namespace";
    match seen {
        Seen::Is(Rehearsal::Accepted(_)) => ok(area, format!("{namespace} takes the pods that pull")),
        Seen::Is(Rehearsal::Refused(why)) => finding(
            Level::Bad,
            area,
            format!("{namespace} refuses the pods that pull: {why}"),
            "raise the quota, except pods with the label app.kubernetes.io/managed-by=prewarmer from the policy, or set \
             workerNamespace: Fallback",
        ),
        Seen::Absent => {
            finding(Level::Bad, area, format!("there is no namespace {namespace}"), "name one that there is")
        }
        Seen::Forbidden | Seen::Failed(_) => {
            unseen(area, seen, &format!("create pods in {namespace}")).unwrap_or_else(|| ok(area, namespace.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests;
