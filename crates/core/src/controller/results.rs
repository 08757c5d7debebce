//! Results of a task by node and by image, as its status stores them. A successor restores them
//! from the status after a restart.

use std::fmt::Write as _;

use crate::{
    count_values,
    image::ImageRef,
    task::{
        AbandonedImage, FailedNode, ImageStatus, MAX_FAILED_NODES, PrewarmTaskStatus,
        batches::NodeState,
    },
    timestamp,
    worker::{FailureReason, ImageOutcome},
};
use k8s_openapi::jiff::Timestamp;

/// Maximum length of the message of one failure, in characters. Messages of the kubelet have a few
/// hundred.
const MAX_FAILURE_MESSAGE: usize = 500;
/// Maximum length of the message of an abandoned image, in characters.
const MAX_ABANDONED_MESSAGE: usize = 200;
/// Maximum size of all listed failures, in bytes; further ones are only counted. With 100 images of
/// the longest names (90 KB), as many ignored nodes (30 KB) and 5,000 node states, a status stays
/// below 200 KB.
const MAX_FAILURES_SIZE: usize = 64 << 10;
/// Number of nodes on which an image must fail permanently, and succeed on none, before it is
/// abandoned. A single failure could be the node's fault, and 5,000 requests for a misspelled name
/// would be too many.
const PERMANENT_FAILURE_NODES: u32 = 3;

/// Outcome of a node, or of one attempt on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeOutcome {
    /// Ended, with one outcome per image of the task.
    Images(Vec<ImageOutcome>),
    /// Deferred because a registry does not answer, with one outcome per image of the task.
    Deferred(Vec<ImageOutcome>),
    /// Every image present without a pull.
    AlreadyWarm,
    /// Failed as a node, not by an image.
    NodeFailed(FailureReason, String),
    /// Not tried.
    Skipped(FailureReason, String),
    /// Not tried, because the task is obsolete.
    Abandoned,
}

/// Outcomes of the images that a worker pulls, by index of the image.
pub(super) type PartOutcomes = Vec<(usize, ImageOutcome)>;

/// Results by node and by image.
#[derive(Debug, Clone)]
pub(super) struct Results {
    node_states: Vec<u8>,
    images: Vec<ImageStatus>,
    /// Number of nodes with a permanent failure, by image index.
    permanent_failures: Vec<u32>,
    failures: Vec<FailedNode>,
    /// Largest number of retries that a node has needed so far.
    retries: u32,
}

impl Results {
    /// Restores the results of a plan of `total` nodes from `status`.
    pub(super) fn restore(total: usize, images: &[ImageRef], status: &PrewarmTaskStatus) -> Self {
        let mut letters = status.node_states.clone().into_bytes();
        letters.resize(total, NodeState::Waiting.as_byte());
        let fresh = |image: &ImageRef| ImageStatus {
            image: image.as_written().into(),
            ..ImageStatus::default()
        };
        let known = status.images.len() == images.len();
        Self {
            node_states: letters,
            images: if known { status.images.clone() } else { images.iter().map(fresh).collect() },
            permanent_failures: vec![0; images.len()],
            failures: status.failed_nodes.clone(),
            retries: status.current_retry,
        }
    }

    pub(super) fn node_states(&self) -> &[u8] {
        &self.node_states
    }

    pub(super) fn state(&self, index: usize) -> NodeState {
        self.node_states
            .get(index)
            .map_or(NodeState::Skipped, |letter| NodeState::from_byte(*letter))
    }

    pub(super) fn all_ended(&self) -> bool {
        self.node_states.iter().all(|letter| NodeState::from_byte(*letter).is_final())
    }

    /// Returns the nodes that have failed and are to be retried.
    pub(super) fn retrying_nodes(&self) -> impl Iterator<Item = usize> + '_ {
        let retries = |letter: &u8| matches!(NodeState::from_byte(*letter), NodeState::Retrying(_));
        self.node_states
            .iter()
            .enumerate()
            .filter(move |(_, letter)| retries(letter))
            .map(|(index, _)| index)
    }

    /// Returns the number of nodes that are not in their first attempt: ended, or to be retried.
    pub(super) fn processed_nodes(&self) -> usize {
        self.node_states.iter().filter(|letter| **letter != NodeState::Waiting.as_byte()).count()
    }

    pub(super) fn abandoned(&self, image: usize) -> Option<&AbandonedImage> {
        self.images.get(image)?.given_up.as_ref()
    }

    /// Defers a node that has not been tried yet.
    pub(super) fn defer(&mut self, index: usize) {
        if self.state(index) == NodeState::Waiting
            && let Some(letter) = self.node_states.get_mut(index)
        {
            *letter = NodeState::Retrying(0).as_byte();
        }
    }

    /// Abandons an image for the remaining nodes.
    pub(super) fn abandon_image(&mut self, image: usize, reason: FailureReason, message: &str) {
        if let Some(image) = self.images.get_mut(image).filter(|image| image.given_up.is_none()) {
            let message = truncate(message, MAX_ABANDONED_MESSAGE);
            image.given_up = Some(AbandonedImage { reason: reason.as_str().into(), message });
        }
    }

    fn count(&self, wanted: NodeState) -> u32 {
        self.node_states.iter().map(|letter| u32::from(*letter == wanted.as_byte())).sum()
    }

    pub(super) fn warm_nodes(&self) -> u32 {
        self.count(NodeState::Succeeded).saturating_add(self.count(NodeState::AlreadyWarm))
    }

    /// Records the end of an attempt on a node, and returns the resulting state. With `again`, a
    /// transient failure or a deferral leads to a retry. A second end of a node is ignored.
    pub(super) fn finish_attempt(
        &mut self,
        index: usize,
        node: &str,
        end: NodeOutcome,
        again: bool,
        now: Timestamp,
    ) -> NodeState {
        let before = self.state(index);
        if before.is_final() {
            return before;
        }
        self.failures.retain(|failure| failure.node != node);
        let retry = again && (end.is_transient() || matches!(end, NodeOutcome::Deferred(_)));
        let state = match end {
            _ if retry => {
                self.list_failures(node, &end, now);
                NodeState::Retrying(before.attempt().saturating_add(1))
            }
            NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) => {
                self.finish_images(node, outcomes, now)
            }
            NodeOutcome::AlreadyWarm => {
                self.images
                    .iter_mut()
                    .for_each(|image| image.succeeded = image.succeeded.saturating_add(1));
                NodeState::AlreadyWarm
            }
            NodeOutcome::NodeFailed(..) => {
                self.images
                    .iter_mut()
                    .for_each(|image| image.failed = image.failed.saturating_add(1));
                self.list_failures(node, &end, now);
                NodeState::Failed
            }
            NodeOutcome::Skipped(..) => {
                self.list_failures(node, &end, now);
                NodeState::Skipped
            }
            NodeOutcome::Abandoned => NodeState::Skipped,
        };
        if let Some(letter) = self.node_states.get_mut(index) {
            *letter = state.as_byte();
        }
        if let NodeState::Retrying(tries) = state {
            self.retries = self.retries.max(u32::from(tries));
        }
        state
    }

    fn finish_images(
        &mut self,
        node: &str,
        outcomes: Vec<ImageOutcome>,
        now: Timestamp,
    ) -> NodeState {
        let mut state = NodeState::Succeeded;
        for (position, outcome) in outcomes.into_iter().enumerate() {
            let Some(image) = self.images.get_mut(position) else { continue };
            match outcome {
                ImageOutcome::Warm(digest) => {
                    image.succeeded = image.succeeded.saturating_add(1);
                    image.given_up = None;
                    image.digest = digest.or(image.digest.take());
                }
                bad => {
                    state = NodeState::Failed;
                    image.failed = image.failed.saturating_add(1);
                    let (reason, message) = failure_of(bad);
                    self.count_permanent_failure(position, reason, &message);
                    self.add_failure(node, position, reason, &message, now);
                }
            }
        }
        state
    }

    /// Counts a permanent failure of an image, and abandons the image when there are enough.
    fn count_permanent_failure(&mut self, position: usize, reason: FailureReason, message: &str) {
        let (Some(image), Some(count)) =
            (self.images.get_mut(position), self.permanent_failures.get_mut(position))
        else {
            return;
        };
        if !reason.is_image_error() {
            return;
        }
        *count = count.saturating_add(1);
        if *count >= PERMANENT_FAILURE_NODES && image.succeeded == 0 && image.given_up.is_none() {
            image.given_up = Some(AbandonedImage {
                reason: reason.as_str().into(),
                message: truncate(message, MAX_ABANDONED_MESSAGE),
            });
        }
    }

    /// Adds the failures of an outcome to the list.
    fn list_failures(&mut self, node: &str, end: &NodeOutcome, now: Timestamp) {
        match end {
            NodeOutcome::Images(outcomes) | NodeOutcome::Deferred(outcomes) => {
                let bad = outcomes
                    .iter()
                    .enumerate()
                    .filter(|(_, outcome)| !matches!(outcome, ImageOutcome::Warm(_)));
                for (position, outcome) in bad {
                    let (reason, message) = failure_of(outcome.clone());
                    self.add_failure(node, position, reason, &message, now);
                }
            }
            NodeOutcome::NodeFailed(reason, message) | NodeOutcome::Skipped(reason, message) => {
                self.add_failure(node, usize::MAX, *reason, message, now);
            }
            NodeOutcome::AlreadyWarm | NodeOutcome::Abandoned => {}
        }
    }

    /// Adds one failure to the list. A `position` beyond the images stands for a failure of the
    /// node.
    fn add_failure(
        &mut self,
        node: &str,
        position: usize,
        reason: FailureReason,
        message: &str,
        now: Timestamp,
    ) {
        let failure = FailedNode {
            node: node.into(),
            image: self.images.get(position).map(|image| image.image.clone()).unwrap_or_default(),
            reason: reason.as_str().into(),
            message: truncate(message, MAX_FAILURE_MESSAGE),
            time: timestamp::format(now),
        };
        let size: usize = self.failures.iter().chain([&failure]).map(json_size).sum();
        if self.failures.len() < MAX_FAILED_NODES && size <= MAX_FAILURES_SIZE {
            self.failures.push(failure);
        }
    }

    /// Writes the results into a status.
    pub(super) fn write_to(&self, status: &mut PrewarmTaskStatus) {
        status.total_nodes = u32::try_from(self.node_states.len()).unwrap_or(u32::MAX);
        status.succeeded_nodes = self.warm_nodes();
        status.already_warm_nodes = self.count(NodeState::AlreadyWarm);
        status.failed_node_count = self.count(NodeState::Failed);
        status.skipped_nodes = self.count(NodeState::Skipped);
        status.current_retry = self.retries;
        status.failed_nodes.clone_from(&self.failures);
        status.images.clone_from(&self.images);
        status.node_states = String::from_utf8_lossy(&self.node_states).into_owned();
        status.progress = Some(format!("{}/{} Nodes", status.succeeded_nodes, status.total_nodes));
    }

    /// Returns a summary for users: warm nodes, and failures by reason, most frequent first.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("warm on {} of {} nodes", self.warm_nodes(), self.node_states.len());
        let mut reasons = count_values(self.failures.iter().map(|failure| &failure.reason));
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (reason, count) in reasons {
            let _ = write!(text, "; {reason}: {count}");
        }
        text
    }
}

impl NodeOutcome {
    /// Reports whether all failures of the outcome are transient.
    fn is_transient(&self) -> bool {
        match self {
            Self::Images(outcomes) | Self::Deferred(outcomes) => {
                let mut bad = outcomes
                    .iter()
                    .filter(|outcome| !matches!(outcome, ImageOutcome::Warm(_)))
                    .peekable();
                bad.peek().is_some()
                    && bad.all(|outcome| !matches!(outcome, ImageOutcome::Failed(r, _) if !r.is_transient()))
            }
            Self::NodeFailed(reason, _) => reason.is_transient(),
            Self::AlreadyWarm | Self::Skipped(..) | Self::Abandoned => false,
        }
    }
}

/// Returns reason and message of an image that is not warm.
fn failure_of(outcome: ImageOutcome) -> (FailureReason, String) {
    match outcome {
        ImageOutcome::Failed(reason, message) | ImageOutcome::Pending(Some((reason, message))) => {
            (reason, message)
        }
        ImageOutcome::Pending(None) | ImageOutcome::Warm(_) => {
            (FailureReason::Timeout, "not pulled within the timeout".into())
        }
    }
}

fn truncate(message: &str, most: usize) -> String {
    message.chars().take(most).collect()
}

/// Returns the size of a failure as JSON, in bytes: its texts, and about 100 for keys and
/// punctuation.
fn json_size(failure: &FailedNode) -> usize {
    [&failure.node, &failure.image, &failure.reason, &failure.message]
        .map(String::len)
        .iter()
        .fold(100, |sum, len| usize::saturating_add(sum, *len))
}

#[cfg(test)]
mod tests;
