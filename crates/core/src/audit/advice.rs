//! Sentences of a report: what it assumes, and what to do.

use super::{
    report::{AuditReport, NotSpared, Seconds},
    simulation::SimulationSettings,
};

/// Share of the waits, in percent, from which an installation is advised.
const WORTHWHILE_PERCENT: u64 = 10;
/// Total wait below which an installation is not advised, whatever its share.
const NEGLIGIBLE: Seconds = Seconds::from_millis(10_000);

/// Returns the assumptions of the simulation, one sentence each.
#[must_use]
pub fn assumptions(settings: &SimulationSettings) -> Vec<String> {
    let one_shots = if settings.warm_one_shots {
        "Pods without a controller and Jobs without a CronJob create tasks, too."
    } else {
        "Pods without a controller and Jobs without a CronJob create no tasks (--warm-one-shots)."
    };
    vec![
        format!(
            "A task for an image begins with the first recorded container of a workload that needs \
             it, on up to {} nodes (of a DaemonSet on all), {} at a time, and each batch takes as \
             long as the slowest recorded pull of the image and 5 s.",
            settings.most_nodes, settings.batch_size
        ),
        "A wait is spared if it begins after the end of the whole task, on a node that existed at its \
         begin and had not pulled the image."
            .to_owned(),
        one_shots.to_owned(),
        "System namespaces and custom kinds are not warmed; placement, opt-outs and pull policies \
         of workloads, free disk space and the limits over all tasks are not considered."
            .to_owned(),
        "Every client that may create Events can forge them.".to_owned(),
    ]
}

/// Returns one sentence that says whether an installation is worth it, or what else to do.
#[must_use]
pub fn advice(report: &AuditReport) -> String {
    let (waited, spared) = (report.waited_seconds, report.spared_seconds);
    if report.pulls == 0 {
        return "No container waited for an image, so there was nothing to spare.".to_owned();
    }
    if waited < NEGLIGIBLE {
        return "Containers waited less than 10 s in all, which an installation would hardly improve."
            .to_owned();
    }
    let percent = percent(spared, waited);
    if percent >= WORTHWHILE_PERCENT {
        return format!(
            "An installation would spare about {percent} % of the waits of rollouts like these \
             (docs/quick-start.md)."
        );
    }
    main_reason(&report.not_spared_seconds).to_owned()
}

/// Returns the share in whole percent, 0 of nothing.
fn percent(part: Seconds, whole: Seconds) -> u64 {
    let (part, whole) = (u128::from(part.as_millis()), u128::from(whole.as_millis()));
    (part * 100).checked_div(whole).and_then(|share| u64::try_from(share).ok()).unwrap_or_default()
}

/// Returns the advice for the reason with the longest waits.
fn main_reason(reasons: &NotSpared) -> &'static str {
    let NotSpared { early, repeated, new_node, one_shot, not_warmed, deleted, remainder } =
        *reasons;
    let sentences = [
        (
            early,
            "Most waits begin before images can be warmed: create the tasks before the rollout, from \
             the pipeline (docs/ci.md) or by a schedule (docs/schedules.md).",
        ),
        (
            one_shot,
            "Most waits are of Pods and Jobs that start once: warm their images by a schedule \
             (docs/schedules.md) or from the pipeline (docs/ci.md).",
        ),
        (
            repeated,
            "Most waits are for images that the node had before: check imagePullPolicy Always, and \
             the image garbage collection of the kubelets.",
        ),
        (
            new_node,
            "Most waits are on nodes that joined after the rollout: a schedule warms such nodes \
             (docs/schedules.md).",
        ),
        (
            not_warmed,
            "Most waits are in system namespaces or of custom kinds, which are warmed by \
             --include-namespaces and --kinds (docs/settings.md).",
        ),
        (
            deleted,
            "Most waits are of pods that are deleted: run the audit again, sooner after a rollout.",
        ),
        (
            remainder,
            "Most waits are on nodes that a task does not select: warm more of them by the \
             annotation prewarm.io/nodes (docs/annotations.md).",
        ),
    ];
    // The first of equal ones.
    sentences.iter().rev().max_by_key(|(wait, _)| *wait).map_or("", |(_, advice)| advice)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, 0, 0)]
    #[case(1, 3, 33)]
    #[case(3, 3, 100)]
    #[case(u64::MAX, u64::MAX, 100)]
    fn shares_are_in_whole_percent(#[case] part: u64, #[case] whole: u64, #[case] expected: u64) {
        assert_eq!(percent(Seconds::from_millis(part), Seconds::from_millis(whole)), expected);
    }

    #[test]
    fn the_longest_reason_decides() {
        let of = |milliseconds| Seconds::from_millis(milliseconds);
        let mut reasons = NotSpared { early: of(5), repeated: of(5), ..NotSpared::default() };
        assert!(main_reason(&reasons).contains("before images can be warmed"));
        reasons.repeated = of(6);
        assert!(main_reason(&reasons).contains("the node had before"));
        reasons.new_node = of(6);
        assert!(main_reason(&reasons).contains("the node had before"));
        reasons.new_node = of(7);
        assert!(main_reason(&reasons).contains("joined after"));
        reasons.one_shot = of(8);
        assert!(main_reason(&reasons).contains("start once"));
        reasons.not_warmed = of(9);
        assert!(main_reason(&reasons).contains("--include-namespaces"));
        reasons.deleted = of(10);
        assert!(main_reason(&reasons).contains("deleted"));
        reasons.remainder = of(11);
        assert!(main_reason(&reasons).contains("prewarm.io/nodes"));
    }
}
