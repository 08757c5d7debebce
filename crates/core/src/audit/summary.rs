//! Sums of waits by workload and by image.

use std::{cmp::Reverse, collections::HashMap};

use jiff::Timestamp;

use super::{
    advice::{advice, assumptions},
    nodes::Nodes,
    owners::{Owners, WorkloadId},
    recording::{ImageStart, Recording},
    report::{AuditReport, FORMAT_VERSION, ImageRow, NodeCount, NotSpared, Seconds, WorkloadRow},
    simulation::{Reason, SimulationSettings, Verdict, simulate},
};
use crate::timestamp;

/// Facts about a cluster, and settings of the report.
#[derive(Debug)]
pub struct AuditInput<'a> {
    /// Starts of containers.
    pub recording: &'a Recording,
    /// Owners of pods.
    pub owners: &'a Owners,
    /// Nodes; none where they cannot be listed.
    pub nodes: Option<&'a Nodes>,
    /// Only namespace that was read; none for all namespaces.
    pub namespace: Option<&'a str>,
    /// Largest number of workloads, and of images, in the report.
    pub limit: usize,
    /// Settings of the simulation.
    pub settings: SimulationSettings,
    /// Sentences about what was not read.
    pub notes: Vec<String>,
}

/// Sums of several starts.
#[derive(Debug, Default)]
struct Sums {
    starts: u64,
    warm: u64,
    /// Waits in milliseconds, each with the number of its occurrences.
    waits: Vec<(u64, u64)>,
    waited: u64,
    spared: u64,
    image_bytes: u64,
    /// Largest stated size of an image.
    largest: Option<u64>,
}

/// Result of a start whose image was pulled: waits in milliseconds of all occurrences.
struct PullOutcome {
    spared: u64,
    /// Waits that are not spared, by reason.
    reasons: Vec<(Option<Reason>, u64)>,
}

impl Sums {
    fn add(&mut self, start: &ImageStart, spared: u64) {
        let count = u64::from(start.count);
        self.starts += count;
        let Some(pull) = start.pull else {
            self.warm += count;
            return;
        };
        self.waits.push((pull.waited, count));
        self.waited = self.waited.saturating_add(pull.waited * count);
        self.spared = self.spared.saturating_add(spared);
        let size = pull.image_bytes.unwrap_or_default();
        self.image_bytes = self.image_bytes.saturating_add(size.saturating_mul(count));
        self.largest = self.largest.max(pull.image_bytes);
    }

    fn pulls(&self) -> u64 {
        self.starts - self.warm
    }

    fn longest(&self) -> u64 {
        self.waits.iter().map(|(wait, _)| *wait).max().unwrap_or_default()
    }
}

/// Returns the report about a cluster.
#[must_use]
pub fn summarize(input: &AuditInput<'_>) -> AuditReport {
    let starts = &input.recording.starts;
    let workloads: Vec<WorkloadId> =
        starts.iter().map(|start| input.owners.workload_of(&start.namespace, &start.pod)).collect();
    let seen = Nodes::seen_in(input.recording);
    let nodes = input.nodes.unwrap_or(&seen);
    let verdicts = simulate(starts, &workloads, nodes, &input.settings);
    let mut total = Sums::default();
    let mut by_workload: HashMap<&WorkloadId, Sums> = HashMap::new();
    let mut by_image: HashMap<&str, Sums> = HashMap::new();
    let mut not_spared = NotSpared::default();
    for ((start, workload), verdict) in starts.iter().zip(&workloads).zip(verdicts) {
        let outcome = outcome(start, verdict);
        total.add(start, outcome.spared);
        by_workload.entry(workload).or_default().add(start, outcome.spared);
        by_image.entry(&start.image).or_default().add(start, outcome.spared);
        for (reason, wait) in outcome.reasons {
            let sum = not_spared.of(reason);
            *sum = Seconds::from_millis(sum.as_millis().saturating_add(wait));
        }
    }
    let (workloads, omitted_workloads) = longest_first(by_workload, input.limit, workload_row);
    by_image.retain(|_, sums| !sums.waits.is_empty());
    let (images, omitted_images) = longest_first(by_image, input.limit, image_row);
    let time = |at: i64| Timestamp::from_millisecond(at).ok().map(timestamp::format);
    let mut report = AuditReport {
        format_version: FORMAT_VERSION,
        namespace: input.namespace.map(str::to_owned),
        first_start: starts.iter().map(|start| start.at).min().and_then(time),
        last_start: starts.iter().map(|start| start.at).max().and_then(time),
        nodes: NodeCount { count: nodes.count(), listed: input.nodes.is_some() },
        starts: total.starts,
        warm_starts: total.warm,
        pulls: total.pulls(),
        waited_seconds: Seconds::from_millis(total.waited),
        spared_seconds: Seconds::from_millis(total.spared),
        not_spared_seconds: not_spared,
        image_bytes: total.image_bytes,
        workloads,
        omitted_workloads,
        images,
        omitted_images,
        notes: input.notes.iter().cloned().chain(notes(input.recording)).collect(),
        assumptions: assumptions(&input.settings),
        advice: String::new(),
    };
    report.advice = advice(&report);
    report
}

/// Returns the waits of all occurrences of a start. After the first one the node has the image, so
/// that the others are repetitions.
fn outcome(start: &ImageStart, verdict: Option<Verdict>) -> PullOutcome {
    let (Some(verdict), Some(pull)) = (verdict, start.pull) else {
        return PullOutcome { spared: 0, reasons: Vec::new() };
    };
    let (spared, reason) = match verdict {
        Verdict::Spared(spared) => (spared, None),
        Verdict::Waited(reason) => (0, Some(reason)),
    };
    let first = (reason, pull.waited.saturating_sub(spared));
    let again = (Some(Reason::Repeated), pull.waited * u64::from(start.count.saturating_sub(1)));
    PullOutcome { spared, reasons: vec![first, again] }
}

impl NotSpared {
    fn of(&mut self, reason: Option<Reason>) -> &mut Seconds {
        match reason {
            Some(Reason::Early) => &mut self.early,
            Some(Reason::Repeated) => &mut self.repeated,
            Some(Reason::NewNode) => &mut self.new_node,
            Some(Reason::OneShot) => &mut self.one_shot,
            Some(Reason::NotWarmed) => &mut self.not_warmed,
            Some(Reason::Deleted) => &mut self.deleted,
            None => &mut self.remainder,
        }
    }
}

/// Returns the rows with the longest waits, and the number of the others.
fn longest_first<K: Ord, R>(
    sums: HashMap<K, Sums>,
    limit: usize,
    row: impl Fn(K, &Sums) -> R,
) -> (Vec<R>, usize) {
    let mut all: Vec<(K, Sums)> = sums.into_iter().collect();
    all.sort_by(|(a, left), (b, right)| {
        let order = |sums: &Sums| (Reverse(sums.waited), Reverse(sums.starts));
        order(left).cmp(&order(right)).then_with(|| a.cmp(b))
    });
    let omitted = all.len().saturating_sub(limit);
    all.truncate(limit);
    let row = |(key, mut sums): (K, Sums)| {
        sums.waits.sort_unstable();
        row(key, &sums)
    };
    (all.into_iter().map(row).collect(), omitted)
}

/// Returns the row of a workload, whose waits are sorted.
fn workload_row(workload: &WorkloadId, sums: &Sums) -> WorkloadRow {
    WorkloadRow {
        namespace: workload.namespace.to_string(),
        kind: workload.kind.to_string(),
        name: workload.name.to_string(),
        starts: sums.starts,
        warm_starts: sums.warm,
        pulls: sums.pulls(),
        waited_seconds: Seconds::from_millis(sums.waited),
        p50_seconds: Seconds::from_millis(percentile(&sums.waits, 50)),
        p95_seconds: Seconds::from_millis(percentile(&sums.waits, 95)),
        longest_seconds: Seconds::from_millis(sums.longest()),
        spared_seconds: Seconds::from_millis(sums.spared),
        image_bytes: sums.image_bytes,
    }
}

fn image_row(image: &str, sums: &Sums) -> ImageRow {
    ImageRow {
        image: image.to_owned(),
        pulls: sums.pulls(),
        waited_seconds: Seconds::from_millis(sums.waited),
        longest_seconds: Seconds::from_millis(sums.longest()),
        spared_seconds: Seconds::from_millis(sums.spared),
        size_bytes: sums.largest,
    }
}

/// Returns a percentile by the nearest rank of sorted values with their numbers of occurrences; 0
/// without values.
fn percentile(values: &[(u64, u64)], percent: u64) -> u64 {
    let total: u64 = values.iter().map(|(_, count)| count).sum();
    let rank = (total * percent).div_ceil(100);
    let mut seen = 0;
    let at_rank = values.iter().find(|(_, count)| {
        seen += count;
        seen >= rank
    });
    at_rank.map_or(0, |(value, _)| *value)
}

/// Returns sentences about events that were not used, or not completely.
fn notes(recording: &Recording) -> Vec<String> {
    let ignored = recording.ignored;
    [
        (ignored.workers, "events are about pods of Prewarmer's own workers, and are left out"),
        (
            ignored.foreign,
            "events are not about the image of a container, or not by a kubelet, and are left out",
        ),
        (
            ignored.unreadable,
            "events have an unknown message or an invalid field, and are left out",
        ),
        (
            recording.combined,
            "events combine several similar ones: only the latest pull of each is counted",
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, text)| format!("{count} {text}."))
    .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], 50, 0)]
    #[case(&[(7, 1)], 50, 7)]
    #[case(&[(7, 1)], 95, 7)]
    #[case::even(&[(1, 1), (2, 1), (3, 1), (4, 1)], 50, 2)]
    #[case::odd(&[(1, 1), (2, 1), (3, 1)], 50, 2)]
    #[case::twenty(&[(1, 19), (9, 1)], 95, 1)]
    #[case::nineteen(&[(1, 18), (9, 1)], 95, 9)]
    #[case::repetitions(&[(1, 1), (5, 300)], 50, 5)]
    fn percentiles_are_by_the_nearest_rank(
        #[case] values: &[(u64, u64)],
        #[case] percent: u64,
        #[case] expected: u64,
    ) {
        assert_eq!(percentile(values, percent), expected);
    }
}
