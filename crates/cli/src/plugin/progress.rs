//! Progress and result of a task as text. Pure: no client, no clock, no I/O.

use std::fmt::Write;

use jiff::Timestamp;
use prewarmer_core::{
    duration::{elapsed, format_human},
    task::{Phase, PrewarmTask},
    timestamp,
};

use super::explain::{group_failures, remedy, sentence};
use crate::terminal::Colour;

/// Returns the numbers of ended and of all nodes.
pub(super) fn node_counts(task: &PrewarmTask) -> (u64, u64) {
    let status = task.status.as_ref();
    let sum = status.map_or(0, |status| {
        status.succeeded_nodes + status.failed_node_count + status.skipped_nodes
    });
    (u64::from(sum), u64::from(status.map_or(0, |status| status.total_nodes)))
}

/// Returns the colour of a phase.
pub(super) fn phase_colour(phase: Phase) -> Colour {
    match phase {
        Phase::Pending => Colour::Dim,
        Phase::Snapshotting | Phase::Running | Phase::Finalizing => Colour::Blue,
        Phase::Completed => Colour::Green,
        Phase::Failed => Colour::Red,
        Phase::Cancelled => Colour::Yellow,
    }
}

/// Returns the current activity of a task, for use with or without a bar.
pub(super) fn activity(task: &PrewarmTask, now: Timestamp) -> String {
    let status = task.status.clone().unwrap_or_default();
    let condition = status.conditions.iter().find(|one| one.type_ == "Progressing");
    let message = condition.map(|one| one.message.as_str()).unwrap_or_default();
    if status.total_nodes == 0 || status.phase.is_terminal() {
        let colon = if message.is_empty() { "" } else { ": " };
        return format!("{}{colon}{message}", status.phase.as_str());
    }
    let mut parts = vec![format!("{} warm", status.succeeded_nodes)];
    let mut count = |many: u32, word: &str| {
        if many > 0 {
            parts.push(format!("{many} {word}"));
        }
    };
    count(status.failed_node_count, "failed");
    count(status.skipped_nodes, "skipped");
    if status.total_batches > 1 {
        let batch = (status.current_batch_index + 1).min(status.total_batches);
        parts.push(format!("batch {batch} of {}", status.total_batches));
    }
    let left = status.estimated_completion.as_deref().and_then(timestamp::parse);
    if let Some(left) = left.map(|end| end.duration_since(now)).filter(|left| left.as_secs() > 0) {
        parts.push(format!("about {} left", format_human(left)));
    }
    if message.starts_with("suspended") || message.contains("rejects requests") {
        parts.push(message.to_owned());
    }
    parts.join(", ")
}

/// Returns a line for logs, with all that a bar shows.
pub(super) fn log_line(task: &PrewarmTask, now: Timestamp) -> String {
    let (done, total) = node_counts(task);
    let name = task.metadata.name.as_deref().unwrap_or_default();
    let phase = task.phase();
    if total == 0 || phase.is_terminal() {
        return format!("{name}: {}", activity(task, now));
    }
    format!("{name}: {} {done}/{total} nodes: {}", phase.as_str(), activity(task, now))
}

/// Returns the result of a task: one line, and two for each reason of failures.
pub(super) fn result_text(task: &PrewarmTask, colour_on: bool) -> String {
    let status = task.status.clone().unwrap_or_default();
    let name = task.metadata.name.as_deref().unwrap_or_default();
    let word = phase_colour(status.phase).paint(&status.phase.as_str().to_lowercase(), colour_on);
    let took = elapsed(status.start_time.as_deref(), status.completion_time.as_deref());
    let took = took.map(|took| format!(" in {}", format_human(took))).unwrap_or_default();
    let warm = match status.total_nodes {
        0 => String::new(),
        total => format!(": warm on {} of {total} nodes{took}", status.succeeded_nodes),
    };
    let mut out = format!("prewarmtask.prewarm.io/{name} {word}{warm}\n");
    // Writing to a string cannot fail.
    let message =
        status.conditions.iter().find(|one| one.type_ == "Failed" && one.status == "True");
    if let Some(message) = message.filter(|_| status.total_nodes == 0) {
        let _ = writeln!(out, "  {}", message.message);
    }
    for group in group_failures(&status.failed_nodes) {
        let _ = writeln!(out, "  {}\n    remedy: {}", sentence(&group), remedy(&group));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use prewarmer_core::task::{PrewarmTaskSpec, PrewarmTaskStatus};

    fn task(status: PrewarmTaskStatus) -> PrewarmTask {
        let mut task = PrewarmTask::new("t", PrewarmTaskSpec::new(vec!["a:1".into()]));
        task.status = Some(status);
        task
    }

    #[test]
    fn log_line_contains_the_progress() {
        let status = PrewarmTaskStatus {
            phase: Phase::Running,
            total_nodes: 1000,
            succeeded_nodes: 430,
            failed_node_count: 2,
            current_batch_index: 4,
            total_batches: 10,
            estimated_completion: Some("2026-11-21T10:01:30Z".into()),
            ..PrewarmTaskStatus::default()
        };
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(
            log_line(&task(status), now),
            "t: Running 432/1000 nodes: 430 warm, 2 failed, batch 5 of 10, about 90s left"
        );
        assert_eq!(log_line(&task(PrewarmTaskStatus::default()), now), "t: Pending");
    }

    #[test]
    fn result_contains_the_duration() {
        let status = PrewarmTaskStatus {
            phase: Phase::Completed,
            total_nodes: 3,
            succeeded_nodes: 3,
            start_time: Some("2026-11-21T10:00:00Z".into()),
            completion_time: Some("2026-11-21T10:02:30Z".into()),
            ..PrewarmTaskStatus::default()
        };
        let text = result_text(&task(status), false);
        assert_eq!(text, "prewarmtask.prewarm.io/t completed: warm on 3 of 3 nodes in 2m30s\n");
    }
}
