//! Explanations of why nodes failed, why a task waits, or why a workload is not warmed, with remedies.
//! Pure: no client, no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use http::Uri;

use prewarmer_core::{
    task::{
        Delivery, FailedNode, FailedNodeDetail, FailureGroup, ImageStatus, Notification, Phase,
        PrewarmTask, PrewarmTaskStatus, failure_groups,
    },
    worker::FailureReason,
    workload::Extracted,
};

use super::resolve::skip_reason;

/// Largest number of nodes that a sentence lists.
const MAX_LISTED_NODES: usize = 5;

/// Returns what failed on which nodes, and why.
pub(super) fn sentence(group: &FailureGroup) -> String {
    let what = if group.image.is_empty() { "the node's pull" } else { group.image.as_str() };
    let named = group
        .nodes
        .iter()
        .take(MAX_LISTED_NODES)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let more = more_suffix(group.nodes.len());
    let reason = FailureReason::from_name(&group.reason);
    format!("{what} failed on {named}{more} ({}): {}.", reason.as_str(), reason.summary())
}

/// Returns the remedy.
pub(super) fn remedy(group: &FailureGroup) -> &'static str {
    FailureReason::from_name(&group.reason).remedy()
}

fn more_suffix(many: usize) -> String {
    let more = many.saturating_sub(MAX_LISTED_NODES);
    if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// Groups the failures that the status lists.
pub(super) fn group_failures<'a>(
    failures: impl IntoIterator<Item = &'a FailedNode>,
) -> Vec<FailureGroup> {
    let all: Vec<FailedNodeDetail> =
        failures.into_iter().cloned().map(FailedNodeDetail::from).collect();
    failure_groups(&all)
}

/// Returns the explanation of a task, or of one of its nodes.
pub(super) fn explain(task: &PrewarmTask, node: Option<&str>) -> Vec<String> {
    let status = task.status.clone().unwrap_or_default();
    let mut lines = vec![state_sentence(task)];
    let wanted = |name: &str| node.is_none_or(|node| node == name);
    for group in group_failures(status.failed_nodes.iter().filter(|failure| wanted(&failure.node)))
    {
        lines.push(String::new());
        lines.push(sentence(&group));
        lines.push(format!("  Remedy: {}.", remedy(&group)));
        lines.push(format!("  Message: {}", group.message));
    }
    if node.is_none() {
        lines.extend(abandoned_images(&status));
    }
    lines.extend(excluded_nodes(&status, wanted));
    let listed: BTreeSet<&str> =
        status.failed_nodes.iter().map(|failure| failure.node.as_str()).collect();
    let more =
        usize::try_from(status.failed_node_count).unwrap_or_default().saturating_sub(listed.len());
    if more > 0 && node.is_none() {
        lines.push(String::new());
        lines.push(format!("{more} more nodes failed; the status lists only the first ones."));
    }
    if node.is_none() {
        lines.extend(undelivered(task).into_iter().flat_map(|line| [String::new(), line]));
    }
    if let Some(node) = node.filter(|_| lines.len() == 1) {
        lines.push(String::new());
        lines.push(format!("No failure is recorded on {node}."));
    }
    lines
}

/// Returns the decision about each pod template of a workload, as the server makes it by default.
pub(super) fn explain_workloads(templates: &[Extracted]) -> Vec<String> {
    let decision = |one: &Extracted| match (&one.nodes, one.images.as_slice()) {
        (Some(nodes), images @ [_, ..]) => {
            format!("{} is warmed (nodes: {nodes}): {}.", one.workload, images.join(", "))
        }
        _ => format!("{} is not warmed: {}.", one.workload, skip_reason(one)),
    };
    let lines = |one: &Extracted| {
        let warnings = one.warnings.iter().map(|warning| format!("  Warning: {warning}"));
        let never = one.never_pulled.iter();
        let never =
            never.map(|image| format!("  Not warmed, since its imagePullPolicy is Never: {image}"));
        [decision(one)].into_iter().chain(warnings).chain(never).collect::<Vec<_>>()
    };
    let note = "Decided by the default settings of the server and without its history of images; \
        prewarmer extract accepts other settings.";
    templates.iter().flat_map(lines).chain([String::new(), note.to_owned()]).collect()
}

/// Returns lines about the images that no node could pull.
fn abandoned_images(status: &PrewarmTaskStatus) -> Vec<String> {
    let sentence = |image: &ImageStatus| {
        let why = &image.given_up.as_ref()?.reason;
        Some(format!(
            "{} was not pulled to the other nodes: no node could pull it ({why}).",
            image.image
        ))
    };
    let sentences = status.images.iter().filter_map(sentence);
    sentences.flat_map(|sentence| [String::new(), sentence]).collect()
}

/// Returns lines about the excluded nodes that are `wanted`, by reason.
fn excluded_nodes(status: &PrewarmTaskStatus, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut nodes_by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ignored in status.ignored_nodes.iter().filter(|ignored| wanted(&ignored.node)) {
        nodes_by_reason.entry(&ignored.reason).or_default().push(&ignored.node);
    }
    if nodes_by_reason.is_empty() {
        return Vec::new();
    }
    let heading = format!(
        "Excluded at the start, because they were not eligible: {} nodes.",
        status.ignored_node_count
    );
    let line = |(reason, nodes): (&str, Vec<&str>)| {
        let more = more_suffix(nodes.len());
        format!("  {reason}: {}{more}", nodes[..nodes.len().min(MAX_LISTED_NODES)].join(", "))
    };
    [String::new(), heading].into_iter().chain(nodes_by_reason.into_iter().map(line)).collect()
}

/// Returns the receiver of a notification: the host of its URL, because the rest may be a
/// credential, or the Secret with the URL.
pub(super) fn receiver(one: &Notification) -> String {
    if let Some(source) = &one.url_from {
        return format!("Secret {}/{}", source.secret_key_ref.name, source.secret_key_ref.key);
    }
    let url: Option<Uri> = one.url.as_deref().and_then(|url| url.parse().ok());
    url.and_then(|url| url.host().map(str::to_owned)).unwrap_or_default()
}

/// Returns a sentence for each notification that was not delivered.
fn undelivered(task: &PrewarmTask) -> Vec<String> {
    let deliveries = task.status.as_ref().map_or(&[][..], |status| &status.notifications);
    let failed =
        task.spec.notify.iter().flatten().zip(deliveries).filter(|(_, one)| one.message.is_some());
    let sentence = |(whom, one): (&Notification, &Delivery)| {
        let next = one
            .next_attempt
            .as_ref()
            .map_or("delivery abandoned".into(), |next| format!("next attempt at {next}"));
        let why = one.message.as_deref().unwrap_or_default();
        format!(
            "The notification to {} failed {} times: {why}; {next}.",
            receiver(whom),
            one.attempts
        )
    };
    failed.map(sentence).collect()
}

/// Returns the state of the task in a sentence.
fn state_sentence(task: &PrewarmTask) -> String {
    let status = task.status.clone().unwrap_or_default();
    let condition = status.conditions.iter().find(|one| one.type_ == "Progressing");
    let message = condition.map(|one| one.message.trim_end_matches('.')).unwrap_or_default();
    let name = task.metadata.name.as_deref().unwrap_or_default();
    match status.phase {
        Phase::Pending if message.is_empty() => {
            format!(
                "{name} is pending, and no controller has processed it: is Prewarmer running? (prewarmer doctor)"
            )
        }
        Phase::Pending => format!("{name} is pending: {message}."),
        Phase::Completed if status.failed_node_count == 0 => {
            format!("{name} completed: {message}. Nothing failed.")
        }
        phase => format!("{name} is {}: {message}.", phase.as_str().to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prewarmer_core::task::{
        Condition, IgnoredNode, PrewarmTaskSpec, PrewarmTaskStatus, SecretKeyReference, UrlSource,
    };
    use prewarmer_core::workload::{Policy, extract_documents};

    fn failure(node: &str, image: &str, reason: &str) -> FailedNode {
        FailedNode {
            node: node.into(),
            image: image.into(),
            reason: reason.into(),
            message: format!("message of {node}"),
            time: "2026-11-21T10:00:00Z".into(),
        }
    }

    fn task(phase: Phase, failed: Vec<FailedNode>) -> PrewarmTask {
        let mut task = PrewarmTask::new("t", PrewarmTaskSpec::new(vec!["a:1".into()]));
        let progressing = Condition {
            type_: "Progressing".into(),
            status: "False".into(),
            last_transition_time: String::new(),
            reason: "x".into(),
            message: "warm on 1 of 9 nodes".into(),
            observed_generation: None,
        };
        task.status = Some(PrewarmTaskStatus {
            phase,
            failed_node_count: u32::try_from(failed.len()).unwrap() + 3,
            failed_nodes: failed,
            conditions: vec![progressing],
            ignored_nodes: vec![IgnoredNode { node: "n9".into(), reason: "NotReady".into() }],
            ignored_node_count: 1,
            ..PrewarmTaskStatus::default()
        });
        task
    }

    #[test]
    fn failures_are_grouped_with_a_remedy() {
        let mut failed: Vec<FailedNode> =
            (0..7).map(|n| failure(&format!("n{n}"), "a:1", "TLS")).collect();
        failed.push(failure("n8", "", "NodeLost"));
        let text = explain(&task(Phase::Failed, failed.clone()), None).join("\n");
        assert!(text.starts_with("t is failed: warm on 1 of 9 nodes.\n"), "{text}");
        assert!(
            text.contains(
                "a:1 failed on n0, n1, n2, n3, n4 and 2 more (TLS): the node does not trust"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "Remedy: configure the runtime's CA on the node.\n  Message: message of n0"
            ),
            "{text}"
        );
        assert!(
            text.contains("the node's pull failed on n8 (NodeLost)")
                && text.contains("NotReady: n9"),
            "{text}"
        );
        assert!(text.contains("3 more nodes failed"), "{text}");
        let one = explain(&task(Phase::Failed, failed), Some("n8")).join("\n");
        assert!(one.contains("NodeLost") && !one.contains("TLS") && !one.contains("n9"), "{one}");
    }

    #[test]
    fn unprocessed_task_suggests_the_doctor() {
        let text =
            explain(&PrewarmTask::new("t", PrewarmTaskSpec::default()), Some("n1")).join("\n");
        assert!(
            text.contains("is Prewarmer running?") && text.contains("No failure is recorded on n1"),
            "{text}"
        );
    }

    #[test]
    fn decisions_about_workloads_are_explained() {
        let lines = |metadata: &str, spec: &str| {
            let text = format!(
                "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j{metadata}}}\nspec: {{{spec}template: {{spec: {{containers: [{{name: c, image: 'a:1'}}]}}}}}}\n"
            );
            let found = extract_documents(&text, &Policy::default(), "shop").unwrap();
            explain_workloads(&found.workloads)
        };
        let once = lines("", "");
        assert!(once[0].starts_with("Job/j is not warmed: no_further_completions: "), "{once:?}");
        assert!(once[0].contains("annotate it with prewarm.io/enabled"), "{once:?}");
        let warmed = "Job/j is warmed (nodes: 100): a:1.";
        assert_eq!(lines(", annotations: {prewarm.io/enabled: 'true'}", "")[0], warmed);
        assert_eq!(lines("", "completions: 2, ")[0], warmed);
        let out = lines(", annotations: {prewarm.io/enabled: 'false'}", "");
        assert_eq!(out[0], "Job/j is not warmed: opted out by prewarm.io/enabled.");
        let unused = lines(", annotations: {prewarm.io/priority: '7'}", "");
        assert!(
            unused[1].starts_with("  Warning: prewarmer: not warmed, no_further"),
            "{unused:?}"
        );
        assert!(once.last().unwrap().contains("default settings"), "{once:?}");
    }

    #[test]
    fn failed_notification_is_explained_without_its_url() {
        let mut task = task(Phase::Completed, Vec::new());
        let url = Some("https://hooks.example.com/services/TOKEN".into());
        let hidden = UrlSource {
            secret_key_ref: SecretKeyReference { name: "slack".into(), key: "url".into() },
        };
        task.spec.notify = Some(vec![
            Notification { url, ..Notification::default() },
            Notification { url_from: Some(hidden), ..Notification::default() },
        ]);
        let failed = Delivery {
            attempts: 5,
            done: true,
            message: Some("no response within the timeout".into()),
            ..Delivery::default()
        };
        task.status.as_mut().unwrap().notifications = vec![failed.clone(), failed];
        let text = explain(&task, None).join("\n");
        assert!(text.contains("to hooks.example.com failed 5 times: no response within the timeout; delivery abandoned."), "{text}");
        assert!(text.contains("to Secret slack/url failed") && !text.contains("TOKEN"), "{text}");
    }
}
