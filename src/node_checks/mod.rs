//! Node checks beyond the node's own status: Prometheus query, disk, platform, free capacity.
//!
//! Input: the images of a task and its candidate nodes. Output: nodes to exclude, with reasons; a
//! ranking of nodes; and texts about what could not be checked. A check that fails excludes no node
//! and never delays a task beyond its time limit. May use `egress`.
//!
//! Further checks implement the trait of this module.

// Input from other parties must not cause a panic: arithmetic saturates and indexing is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod disk;
mod distribution;
mod metrics;
mod prometheus;
mod ranking;
mod registry;
mod settings;

use std::time::Duration;

use futures::future::{BoxFuture, join_all};

pub(crate) use disk::{DiskCheck, DiskSettings};
pub(crate) use metrics::NodeCheckMetrics;
pub(crate) use prometheus::{PrometheusCheck, PrometheusSettings, QueryError};
pub(crate) use ranking::NodeRanking;
pub(crate) use registry::{ImageSizeLookup, ImageSizes};
pub(crate) use settings::{NodeCheckArgs, NodeCheckSettings};

use prewarmer_core::{controller::CheckInput, task::plan::NodeCheckFindings};

pub(crate) use prewarmer_core::controller::NodeCandidate;

/// Time limit of a check; after it the check has no result. A task waits for its checks before it
/// warms anything.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum length in characters and maximum number of texts about failed checks. They are stored in
/// an object of the API server.
const MAX_TEXT_CHARS: usize = 200;
const MAX_TEXTS: usize = 10;

/// Reason why a check has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeCheckError {
    /// Time limit that was exceeded.
    #[error("no response within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Prometheus query that failed.
    #[error(transparent)]
    Prometheus(#[from] QueryError),
    /// Pods that could not be listed.
    #[error(transparent)]
    Pods(#[from] kube::Error),
}

/// Check of nodes.
pub(crate) trait NodeCheck: Send + Sync {
    /// Returns the name that precedes the check's texts in conditions.
    fn name(&self) -> &'static str;
    /// Returns the nodes to exclude. An error means that the check has no result.
    fn evaluate<'a>(
        &'a self,
        examination: &'a CheckInput,
    ) -> BoxFuture<'a, Result<NodeCheckFindings, NodeCheckError>>;
}

/// All configured checks.
#[derive(Default)]
pub(crate) struct NodeChecks(Vec<Box<dyn NodeCheck>>);

impl NodeChecks {
    /// Creates the set of checks. The first reason for a node takes precedence.
    #[must_use]
    pub(crate) fn new(checks: Vec<Box<dyn NodeCheck>>) -> Self {
        Self(checks)
    }

    /// Runs all checks concurrently.
    pub(crate) async fn evaluate(&self, examination: &CheckInput) -> NodeCheckFindings {
        let opinions = join_all(self.0.iter().map(|check| async move {
            let answer = tokio::time::timeout(CHECK_TIMEOUT, check.evaluate(examination)).await;
            let answer = answer.unwrap_or(Err(NodeCheckError::TimedOut(CHECK_TIMEOUT)));
            (check.name(), answer)
        }));
        let mut all = NodeCheckFindings::default();
        for (name, opinion) in opinions.await {
            match opinion {
                Ok(found) => {
                    for (node, reason) in found.ignored {
                        all.ignored.entry(node).or_insert(reason);
                    }
                    all.ranks.extend(found.ranks);
                    all.unchecked
                        .extend(found.unchecked.into_iter().map(|what| format!("{name}: {what}")));
                }
                Err(why) => all.unchecked.push(format!("{name}: {why}")),
            }
        }
        limit_texts(&mut all.unchecked);
        all
    }
}

/// Limits number and length of the texts.
fn limit_texts(unchecked: &mut Vec<String>) {
    let more = unchecked.len().saturating_sub(MAX_TEXTS);
    unchecked.truncate(MAX_TEXTS);
    for text in unchecked.iter_mut() {
        *text = truncated(text, MAX_TEXT_CHARS);
    }
    if more > 0 {
        unchecked.push(format!("and {more} more"));
    }
}

/// Returns the first characters of a text, with control characters replaced by spaces.
fn truncated(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= most {
        return text.chars().map(clean).collect();
    }
    let kept = text.chars().take(most.saturating_sub(3)).map(clean);
    kept.chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    struct FixedCheck(&'static str, Result<&'static str, &'static str>);

    impl NodeCheck for FixedCheck {
        fn name(&self) -> &'static str {
            self.0
        }

        fn evaluate<'a>(
            &'a self,
            _: &'a CheckInput,
        ) -> BoxFuture<'a, Result<NodeCheckFindings, NodeCheckError>> {
            let found = |reason: &str| NodeCheckFindings {
                ignored: [("n1".to_owned(), reason.to_owned())].into(),
                unchecked: vec!["half of it".into()],
                ..NodeCheckFindings::default()
            };
            let broken = |why: &str| QueryError::Rejected(why.to_owned()).into();
            let answer = self.1.map(found).map_err(broken);
            async move { answer }.boxed()
        }
    }

    struct PendingCheck;

    impl NodeCheck for PendingCheck {
        fn name(&self) -> &'static str {
            "Silent"
        }

        fn evaluate<'a>(
            &'a self,
            _: &'a CheckInput,
        ) -> BoxFuture<'a, Result<NodeCheckFindings, NodeCheckError>> {
            futures::future::pending().boxed()
        }
    }

    #[test]
    fn texts_are_limited_in_number_and_length() {
        let mut unchecked = vec!["é".repeat(2_000_000), "a\nb".into()];
        unchecked.extend((0..50).map(|n| n.to_string()));
        limit_texts(&mut unchecked);
        assert_eq!((unchecked.len(), unchecked[1].as_str()), (11, "a b"));
        assert!(unchecked.iter().all(|text| text.chars().count() <= MAX_TEXT_CHARS));
        assert_eq!(unchecked[10], "and 42 more");
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_merged_and_timeouts_reported() {
        let checks = NodeChecks::new(vec![
            Box::new(FixedCheck("A", Ok("First"))),
            Box::new(FixedCheck("B", Ok("Second"))),
            Box::new(FixedCheck("C", Err("broken"))),
            Box::new(PendingCheck),
        ]);
        let findings = checks.evaluate(&CheckInput::default()).await;
        assert_eq!(findings.ignored["n1"], "First");
        let expected =
            ["A: half of it", "B: half of it", "C: broken", "Silent: no response within 20 s"];
        assert_eq!(findings.unchecked, expected);
    }
}
