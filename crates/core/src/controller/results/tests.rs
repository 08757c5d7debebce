//! Tests of results by node and image.

use super::*;

fn record(nodes: usize) -> Results {
    let images = ["a:1", "b:1"].map(|text| text.parse().unwrap());
    Results::restore(nodes, &images, &PrewarmTaskStatus::default())
}

fn permanent_failure() -> NodeOutcome {
    NodeOutcome::Images(vec![
        ImageOutcome::Warm(None),
        ImageOutcome::Failed(FailureReason::ImageNotFound, "not found".into()),
    ])
}

fn transient_failure() -> NodeOutcome {
    let complaint = (FailureReason::RegistryUnreachable, "i/o timeout".to_owned());
    NodeOutcome::Images(vec![ImageOutcome::Warm(None), ImageOutcome::Pending(Some(complaint))])
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

#[test]
fn an_image_is_abandoned_after_permanent_failures_on_three_nodes() {
    let mut record = record(5);
    for index in 0..3 {
        assert_eq!(record.abandoned(1), None);
        record.finish_attempt(index, &format!("n{index}"), permanent_failure(), false, now());
    }
    assert_eq!(record.abandoned(1).unwrap().reason, "ImageNotFound");
    assert_eq!(record.abandoned(0), None);
}

#[test]
fn an_image_that_is_warm_on_one_node_is_not_abandoned() {
    let mut record = record(5);
    record.finish_attempt(0, "n0", NodeOutcome::AlreadyWarm, false, now());
    for index in 1..5 {
        record.finish_attempt(index, &format!("n{index}"), permanent_failure(), false, now());
    }
    assert_eq!(record.abandoned(1), None);
}

#[test]
fn only_transient_failures_are_retried() {
    let mut record = record(3);
    assert_eq!(
        record.finish_attempt(0, "n0", transient_failure(), true, now()),
        NodeState::Retrying(1)
    );
    assert_eq!(record.finish_attempt(1, "n1", permanent_failure(), true, now()), NodeState::Failed);
    assert_eq!(
        record.finish_attempt(
            2,
            "n2",
            NodeOutcome::NodeFailed(FailureReason::QuotaExceeded, "quota".into()),
            true,
            now()
        ),
        NodeState::Retrying(1)
    );
    assert_eq!(record.retrying_nodes().collect::<Vec<_>>(), [0, 2]);
    assert!(!record.all_ended());
    let good = NodeOutcome::Images(vec![ImageOutcome::Warm(None), ImageOutcome::Warm(None)]);
    assert_eq!(record.finish_attempt(0, "n0", good, true, now()), NodeState::Succeeded);
    assert_eq!(
        record.finish_attempt(2, "n2", transient_failure(), false, now()),
        NodeState::Failed
    );
    let mut status = PrewarmTaskStatus::default();
    record.write_to(&mut status);
    let listed: Vec<_> =
        status.failed_nodes.iter().map(|f| (f.node.as_str(), f.reason.as_str())).collect();
    assert_eq!(listed, [("n1", "ImageNotFound"), ("n2", "RegistryUnreachable")]);
    assert_eq!((status.images[1].succeeded, status.images[1].failed), (1, 2));
    assert_eq!(status.node_states, "sff");
}

#[test]
fn the_longest_status_stays_below_200_kb() {
    let images: Vec<ImageRef> = (0..100)
        .map(|n| {
            format!("registry.example/{}{n:03}:{}", "a/".repeat(110), "t".repeat(120))
                .parse()
                .unwrap()
        })
        .collect();
    let nodes = 150;
    let mut record = Results::restore(nodes, &images, &PrewarmTaskStatus::default());
    let message = "not found ".repeat(100);
    for index in 0..nodes {
        let node = format!("{index:04}{}", "n".repeat(249));
        let outcomes = images
            .iter()
            .map(|_| ImageOutcome::Failed(FailureReason::ImageNotFound, message.clone()))
            .collect();
        record.finish_attempt(index, &node, NodeOutcome::Images(outcomes), false, now());
    }
    let mut status = PrewarmTaskStatus::default();
    record.write_to(&mut status);
    let ignored = crate::task::IgnoredNode { node: "n".repeat(253), reason: "NotReady".into() };
    status.ignored_nodes = vec![ignored; crate::task::MAX_IGNORED_NODES];
    status.node_states = "f".repeat(5000);
    status.batch_ends = vec![1_000_000; crate::task::MAX_BATCH_ENDS];
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!((100_000..200_000).contains(&size), "{size} bytes");
    assert_eq!(status.failed_node_count, 150);
    assert!(!status.failed_nodes.is_empty());
}
