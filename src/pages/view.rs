//! View models of tasks and schedules for the templates. Pure: no client, no clock, no I/O.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use prewarmer::api::pages::TaskView;
use prewarmer_core::{
    duration::format_human,
    schedule::{Cron, PrewarmSchedule},
    worker::FailureReason,
};

use prewarmer_core::task::{FailedNodeDetail, FailureGroup, failure_groups};

/// Number of next execution times that a schedule shows.
pub(super) const NEXT_TIMES: usize = 5;

/// Task in a row of a list or at the head of its page.
#[derive(Debug, Clone, Default)]
pub(super) struct TaskRow {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) status: &'static str,
    pub(super) images: Vec<String>,
    pub(super) total: u32,
    pub(super) done: u32,
    pub(super) failed: u32,
    pub(super) skipped: u32,
    pub(super) origin: String,
    pub(super) created: Option<String>,
    pub(super) finished: Option<String>,
}

/// Returns the path of a task's page.
pub(super) fn task_link(namespace: &str, id: &str) -> String {
    format!("/ui/tasks/{namespace}/{id}")
}

impl TaskRow {
    pub(super) fn from_view(view: &TaskView, skipped: u32) -> Self {
        Self {
            id: view.task_id.clone(),
            namespace: view.namespace.clone(),
            status: view.status.as_str(),
            images: view.images.clone(),
            total: view.progress.total_nodes,
            done: view.progress.completed_nodes,
            failed: view.progress.failed_nodes,
            skipped,
            origin: view.origin.clone(),
            created: view.created_at.clone(),
            finished: view.finished_at.clone(),
        }
    }

    pub(super) fn link(&self) -> String {
        task_link(&self.namespace, &self.id)
    }

    /// Returns a short title: up to two images, or the first and the number of others.
    pub(super) fn title(&self) -> String {
        match self.images.as_slice() {
            [] => self.id.clone(),
            [one] => one.clone(),
            [one, other] => format!("{one}, {other}"),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        }
    }

    /// Returns the number of nodes that have ended: warm, failed or skipped.
    pub(super) fn ended(&self) -> u32 {
        self.done + self.failed + self.skipped
    }

    /// Returns the maximum of the progress bar, which must be at least 1.
    pub(super) fn max(&self) -> u32 {
        self.total.max(1)
    }
}

/// Failures with the same reason and image, with a description and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailureGroupView {
    pub(super) description: String,
    pub(super) remedy: String,
    pub(super) failures: FailureGroup,
}

impl FailureGroupView {
    /// Returns the node names, separated by commas.
    pub(super) fn nodes(&self) -> String {
        self.failures.nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Capitalizes the first letter of a text and removes backquotes.
fn capitalize(text: &str) -> String {
    let plain = text.replace('`', "");
    let mut all = plain.chars();
    all.next().map(|first| first.to_uppercase().chain(all).collect()).unwrap_or_default()
}

/// Returns description and remedy of a failure reason.
pub(super) fn describe_reason(reason: &str) -> (String, String) {
    let reason = FailureReason::from_name(reason);
    (capitalize(reason.summary()), reason.remedy().replace('`', ""))
}

/// Groups the failures of a task by reason and image, most frequent first.
pub(super) fn group_failures(failures: &[FailedNodeDetail]) -> Vec<FailureGroupView> {
    let with_words = |of: FailureGroup| {
        let (what, remedy) = describe_reason(&of.reason);
        FailureGroupView { description: what, remedy, failures: of }
    };
    failure_groups(failures).into_iter().map(with_words).collect()
}

/// Formats a duration in seconds.
pub(super) fn format_seconds(seconds: u32) -> String {
    format_human(SignedDuration::from_secs(i64::from(seconds)))
}

/// Bar of one or more batches on the time axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchBar {
    pub(super) x: u32,
    pub(super) width: u32,
    pub(super) title: String,
    pub(super) in_progress: bool,
}

/// Computes the bars of consecutive batches in an image of width 1000. If there are more than
/// [`MAX_BARS`] batches, several share a bar. `ends` are the ends of batches and `until` is the end
/// of the axis, both in seconds since the start.
pub(super) fn batch_bars(ends: &[u32], until: u32, running: bool) -> Vec<BatchBar> {
    let whole = u64::from(until.max(ends.last().copied().unwrap_or_default()).max(1));
    let place = |second: u32| u32::try_from(u64::from(second) * 1000 / whole).unwrap_or(1000);
    let together = ends.len().div_ceil(MAX_BARS).max(1);
    let mut bars = Vec::new();
    let mut start = 0;
    for (index, chunk) in ends.chunks(together).enumerate() {
        let end = chunk.last().copied().unwrap_or(start);
        let first = index * together + 1;
        let which = if chunk.len() == 1 {
            format!("Batch {first}")
        } else {
            format!("Batches {first} to {}", first + chunk.len() - 1)
        };
        let width = (place(end) - place(start)).max(1);
        bars.push(BatchBar {
            x: place(start),
            width,
            title: format!("{which}: {}", format_seconds(end.saturating_sub(start))),
            in_progress: false,
        });
        start = end;
    }
    if running && until > start {
        let title = format!("In progress for {}", format_seconds(until - start));
        bars.push(BatchBar {
            x: place(start),
            width: (1000 - place(start)).max(1),
            title,
            in_progress: true,
        });
    }
    bars
}

/// Maximum number of bars.
const MAX_BARS: usize = 120;

/// Schedule in a row of a list or at the head of its page.
#[derive(Debug, Clone)]
pub(super) struct ScheduleRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) link: String,
    pub(super) cron: String,
    pub(super) cron_description: String,
    pub(super) zone: String,
    pub(super) next: Option<String>,
    pub(super) last: Option<(&'static str, String)>,
}

impl ScheduleRow {
    pub(super) fn from_schedule(schedule: &PrewarmSchedule, now: Timestamp) -> Self {
        let (spec, status) = (&schedule.spec, schedule.status.clone().unwrap_or_default());
        let id = schedule.name_any();
        let namespace = schedule.namespace().unwrap_or_default();
        let zone = spec.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let cron = Cron::parse(&spec.schedule, &zone).ok();
        let next = cron.as_ref().filter(|_| spec.enabled).and_then(|cron| cron.next_time(now));
        let last =
            status.executions.first().map(|run| (run.status.as_str(), run.scheduled_time.clone()));
        Self {
            name: spec.display_name.clone().unwrap_or_else(|| id.clone()),
            link: format!("/ui/schedules/{namespace}/{id}"),
            id,
            namespace,
            cron: spec.schedule.clone(),
            cron_description: cron
                .as_ref()
                .map_or_else(|| "not a valid cron expression".into(), Cron::describe),
            zone,
            next: next.map(|time| time.to_string()),
            last,
        }
    }
}

/// Returns the next execution times as text, in the schedule's own time zone.
pub(super) fn next_times(cron: &Cron, now: Timestamp) -> Vec<String> {
    let words = |time: Timestamp| {
        let local = cron.to_local(time).strftime("%A, %-d %B %Y, %H:%M %Z").to_string();
        format!("{local} (in {})", format_human(time.duration_since(now)))
    };
    cron.next_times(now, NEXT_TIMES).into_iter().map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_described() {
        let (what, remedy) = describe_reason("TLS");
        assert_eq!(what, "The node does not trust the registry's certificate");
        assert_eq!(remedy, "configure the runtime's CA on the node");
        assert!(!describe_reason("Timeout").0.contains('`'));
    }

    #[test]
    fn batch_bars_fill_the_axis() {
        let drawn = batch_bars(&[10, 15, 40], 50, true);
        let places: Vec<(u32, u32, bool)> =
            drawn.iter().map(|bar| (bar.x, bar.width, bar.in_progress)).collect();
        assert_eq!(
            places,
            [(0, 200, false), (200, 100, false), (300, 500, false), (800, 200, true)]
        );
        assert_eq!(drawn[1].title, "Batch 2: 5s");
        let ends: Vec<u32> = (1..=1000).collect();
        let many = batch_bars(&ends, 1000, false);
        assert!(
            many.len() <= MAX_BARS && many[0].title.starts_with("Batches 1 to 9: 9s"),
            "{}",
            many.len()
        );
        assert_eq!(batch_bars(&[0, 0], 0, false).len(), 2);
        assert!(batch_bars(&[], 0, true).is_empty());
    }
}
