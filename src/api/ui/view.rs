//! Tasks and schedules as pages show them. *Pure.*

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    catalog::{FailedNodeDetail, FailureGroup, TaskView, failure_groups},
    schedule::{Cron, PrewarmSchedule},
    worker::Reason,
};

/// How many of the next times a schedule shows.
pub(super) const NEXT: usize = 5;

/// A task, in a row or at the head of its page.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
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

/// Where a task's page is.
pub(super) fn task_link(namespace: &str, id: &str) -> String {
    format!("/ui/tasks/{namespace}/{id}")
}

impl Row {
    pub(super) fn of(view: &TaskView, skipped: u32) -> Self {
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

    /// Its images, as far as there is room for them.
    pub(super) fn title(&self) -> String {
        match self.images.as_slice() {
            [] => self.id.clone(),
            [one] => one.clone(),
            [one, other] => format!("{one}, {other}"),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        }
    }

    /// How many nodes have ended.
    pub(super) fn ended(&self) -> u32 {
        self.done + self.failed + self.skipped
    }

    /// The whole of which `ended` is a part; a bar of nought is none.
    pub(super) fn max(&self) -> u32 {
        self.total.max(1)
    }
}

/// Failures of one kind, with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) what: String,
    pub(super) remedy: String,
    pub(super) of: FailureGroup,
}

impl Group {
    /// The nodes, in a line.
    pub(super) fn nodes(&self) -> String {
        self.of.nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// A sentence's beginning.
fn capital(text: &str) -> String {
    let plain = text.replace('`', "");
    let mut all = plain.chars();
    all.next().map(|first| first.to_uppercase().chain(all).collect()).unwrap_or_default()
}

/// What happened and what to do, for a reason's word.
pub(super) fn words(reason: &str) -> (String, String) {
    let reason = Reason::from_word(reason);
    (capital(reason.what()), reason.remedy().replace('`', ""))
}

/// The failures of a task by reason and image, most frequent first.
pub(super) fn groups(failures: &[FailedNodeDetail]) -> Vec<Group> {
    let with_words = |of: FailureGroup| {
        let (what, remedy) = words(&of.reason);
        Group { what, remedy, of }
    };
    failure_groups(failures).into_iter().map(with_words).collect()
}

/// A span for people: `45 s`, `12 min`, `3.5 h`, `12 days`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 36_000.0 => format!("{:.1} h", seconds / 3600.0),
        seconds if seconds < 172_800.0 => format!("{:.0} h", seconds / 3600.0),
        seconds => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// A batch on the axis of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) x: u32,
    pub(super) width: u32,
    pub(super) title: String,
    pub(super) now: bool,
}

/// Batches side by side, of a picture that is 1000 wide; more than [`MAX_BARS`] are drawn together.
pub(super) fn bars(ends: &[u32], until: u32, running: bool) -> Vec<Bar> {
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
        bars.push(Bar {
            x: place(start),
            width,
            title: format!("{which}: {} s", end.saturating_sub(start)),
            now: false,
        });
        start = end;
    }
    if running && until > start {
        let title = format!("At work for {} s", until - start);
        bars.push(Bar { x: place(start), width: (1000 - place(start)).max(1), title, now: true });
    }
    bars
}

/// The most bars that are drawn.
const MAX_BARS: usize = 120;

/// A schedule, in a row or at the head of its page.
#[derive(Debug, Clone)]
pub(super) struct ScheduleRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) link: String,
    pub(super) cron: String,
    pub(super) words: String,
    pub(super) zone: String,
    pub(super) next: Option<String>,
    pub(super) last: Option<(&'static str, String)>,
}

impl ScheduleRow {
    pub(super) fn of(schedule: &PrewarmSchedule, now: Timestamp) -> Self {
        let (spec, status) = (&schedule.spec, schedule.status.clone().unwrap_or_default());
        let id = schedule.name_any();
        let namespace = schedule.namespace().unwrap_or_default();
        let zone = spec.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let cron = Cron::parse(&spec.schedule, &zone).ok();
        let next = cron.as_ref().filter(|_| spec.enabled).and_then(|cron| cron.next(now));
        let last = status.executions.first().map(|run| (run.status.as_str(), run.scheduled_time.clone()));
        Self {
            name: spec.display_name.clone().unwrap_or_else(|| id.clone()),
            link: format!("/ui/schedules/{namespace}/{id}"),
            id,
            namespace,
            cron: spec.schedule.clone(),
            words: cron.as_ref().map_or_else(|| "cannot be read".into(), Cron::in_words),
            zone,
            next: next.map(|time| time.to_string()),
            last,
        }
    }
}

/// The next times in words, in the schedule's own zone.
pub(super) fn next_times(cron: &Cron, now: Timestamp) -> Vec<String> {
    let words = |time: Timestamp| {
        let local = cron.local(time).strftime("%A, %-d %B %Y, %H:%M %Z").to_string();
        format!("{local} (in {})", span(time.duration_since(now).as_secs_f64()))
    };
    cron.following(now, NEXT).into_iter().map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_in_words() {
        let (what, remedy) = words("TLS");
        assert_eq!(what, "The node does not trust the registry's certificate");
        assert_eq!(remedy, "configure the runtime's CA on the node");
        assert!(!words("Timeout").0.contains('`'));
    }

    #[test]
    fn batches_on_the_axis() {
        let drawn = bars(&[10, 15, 40], 50, true);
        let places: Vec<(u32, u32, bool)> = drawn.iter().map(|bar| (bar.x, bar.width, bar.now)).collect();
        assert_eq!(places, [(0, 200, false), (200, 100, false), (300, 500, false), (800, 200, true)]);
        assert_eq!(drawn[1].title, "Batch 2: 5 s");
        let ends: Vec<u32> = (1..=1000).collect();
        let many = bars(&ends, 1000, false);
        assert!(many.len() <= MAX_BARS && many[0].title.starts_with("Batches 1 to 9: 9 s"), "{}", many.len());
        assert_eq!(bars(&[0, 0], 0, false).len(), 2);
        assert!(bars(&[], 0, true).is_empty());
    }

    #[test]
    fn spans() {
        let texts = [5.0, 600.0, 9000.0, 864_000.0].map(span);
        assert_eq!(texts, ["5 s", "10 min", "2.5 h", "10 days"]);
    }
}
