//! The results of a task so far: what its status says, and what a successor goes on from.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;

use super::conditions::seconds;
use crate::{
    image::Reference,
    task::{FailedNode, GivenUp, ImageStatus, PrewarmTaskStatus, batches::NodeState, resource::MAX_FAILED_NODES},
    worker::{ImageOutcome, Reason},
};

/// Longest message kept of one failure, in characters: the kubelet's are a few hundred.
const MAX_MESSAGE: usize = 500;
/// Longest message of an image that was given up.
const MAX_GIVEN_UP: usize = 200;
/// All failures together take no more than this, in bytes, and the rest are only counted. With 100 images of the longest
/// names (90 KB), as many ignored nodes (30 KB) and 5,000 letters, a status stays below 200 KB.
const MAX_FAILURES: usize = 64 << 10;
/// On so many nodes an image must prove hopeless, and good on none, before it is given up: one could be a node's fault, and
/// 5,000 requests for a typing error would be too many.
const HOPELESS_NODES: u32 = 3;

/// How a node ended, or one try on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With one outcome per image of the task.
    Images(Vec<ImageOutcome>),
    /// Put behind, because a registry does not answer: with one outcome per image of the task.
    Behind(Vec<ImageOutcome>),
    /// Every image was known to be there.
    AlreadyWarm,
    /// Failed as a whole.
    Node(Reason, String),
    /// Not tried.
    Skipped(Reason, String),
    /// Not tried, because the task is not needed any more.
    Abandoned,
}

/// Results by node and by image.
#[derive(Debug, Clone)]
pub(super) struct Record {
    letters: Vec<u8>,
    images: Vec<ImageStatus>,
    /// By image: on how many nodes it proved hopeless.
    hopeless: Vec<u32>,
    failures: Vec<FailedNode>,
}

impl Record {
    /// Takes up what `status` has of a plan of `total` nodes.
    pub(super) fn restore(total: usize, images: &[Reference], status: &PrewarmTaskStatus) -> Self {
        let mut letters = status.node_states.clone().into_bytes();
        letters.resize(total, NodeState::Waiting.letter());
        let fresh = |image: &Reference| ImageStatus { image: image.as_written().into(), ..ImageStatus::default() };
        let known = status.images.len() == images.len();
        Self {
            letters,
            images: if known { status.images.clone() } else { images.iter().map(fresh).collect() },
            hopeless: vec![0; images.len()],
            failures: status.failed_nodes.clone(),
        }
    }

    pub(super) fn letters(&self) -> &[u8] {
        &self.letters
    }

    pub(super) fn state(&self, index: usize) -> NodeState {
        self.letters.get(index).map_or(NodeState::Skipped, |letter| NodeState::from_letter(*letter))
    }

    pub(super) fn all_ended(&self) -> bool {
        self.letters.iter().all(|letter| NodeState::from_letter(*letter).is_final())
    }

    /// Nodes that have failed and are to be tried again.
    pub(super) fn retrying(&self) -> impl Iterator<Item = usize> + '_ {
        let retries = |letter: &u8| matches!(NodeState::from_letter(*letter), NodeState::Retrying(_));
        self.letters.iter().enumerate().filter(move |(_, letter)| retries(letter)).map(|(index, _)| index)
    }

    /// How many nodes have ended for good, or are to be tried again: whatever is not at its first try.
    pub(super) fn moved(&self) -> usize {
        self.letters.iter().filter(|letter| **letter != NodeState::Waiting.letter()).count()
    }

    pub(super) fn given_up(&self, image: usize) -> Option<&GivenUp> {
        self.images.get(image)?.given_up.as_ref()
    }

    /// Puts a node behind that was not tried yet.
    pub(super) fn put_behind(&mut self, index: usize) {
        if self.state(index) == NodeState::Waiting
            && let Some(letter) = self.letters.get_mut(index)
        {
            *letter = NodeState::Retrying(0).letter();
        }
    }

    /// Gives an image up for the nodes that are left.
    pub(super) fn give_up(&mut self, image: usize, reason: Reason, message: &str) {
        if let Some(image) = self.images.get_mut(image).filter(|image| image.given_up.is_none()) {
            let message = short(message, MAX_GIVEN_UP);
            image.given_up = Some(GivenUp { reason: reason.as_str().into(), message });
        }
    }

    fn count(&self, wanted: NodeState) -> u32 {
        self.letters.iter().map(|letter| u32::from(*letter == wanted.letter())).sum()
    }

    pub(super) fn warm(&self) -> u32 {
        self.count(NodeState::Succeeded).saturating_add(self.count(NodeState::AlreadyWarm))
    }

    /// Notes the end of a try on a node; with `again`, one that failed for a passing reason, or was put behind, will be tried
    /// once more. A node
    /// ends once: a second end is ignored. Where the node stands then.
    pub(super) fn end(&mut self, index: usize, node: &str, end: End, again: bool, now: Timestamp) -> NodeState {
        let before = self.state(index);
        if before.is_final() {
            return before;
        }
        self.failures.retain(|failure| failure.node != node);
        let retry = again && (end.may_pass() || matches!(end, End::Behind(_)));
        let state = match end {
            _ if retry => {
                self.list(node, &end, now);
                NodeState::Retrying(before.attempt().saturating_add(1))
            }
            End::Images(outcomes) | End::Behind(outcomes) => self.end_images(node, outcomes, now),
            End::AlreadyWarm => {
                self.images.iter_mut().for_each(|image| image.succeeded = image.succeeded.saturating_add(1));
                NodeState::AlreadyWarm
            }
            End::Node(..) => {
                self.images.iter_mut().for_each(|image| image.failed = image.failed.saturating_add(1));
                self.list(node, &end, now);
                NodeState::Failed
            }
            End::Skipped(..) => {
                self.list(node, &end, now);
                NodeState::Skipped
            }
            End::Abandoned => NodeState::Skipped,
        };
        if let Some(letter) = self.letters.get_mut(index) {
            *letter = state.letter();
        }
        state
    }

    fn end_images(&mut self, node: &str, outcomes: Vec<ImageOutcome>, now: Timestamp) -> NodeState {
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
                    let (reason, message) = complaint(bad);
                    self.despair(position, reason, &message);
                    self.fail(node, position, reason, &message, now);
                }
            }
        }
        state
    }

    /// Counts hopeless ends of an image, and gives it up when there are enough.
    fn despair(&mut self, position: usize, reason: Reason, message: &str) {
        let (Some(image), Some(count)) = (self.images.get_mut(position), self.hopeless.get_mut(position)) else {
            return;
        };
        if !reason.is_the_images() {
            return;
        }
        *count = count.saturating_add(1);
        if *count >= HOPELESS_NODES && image.succeeded == 0 && image.given_up.is_none() {
            image.given_up = Some(GivenUp { reason: reason.as_str().into(), message: short(message, MAX_GIVEN_UP) });
        }
    }

    /// Spells out what failed.
    fn list(&mut self, node: &str, end: &End, now: Timestamp) {
        match end {
            End::Images(outcomes) | End::Behind(outcomes) => {
                let bad = outcomes.iter().enumerate().filter(|(_, outcome)| !matches!(outcome, ImageOutcome::Warm(_)));
                for (position, outcome) in bad {
                    let (reason, message) = complaint(outcome.clone());
                    self.fail(node, position, reason, &message, now);
                }
            }
            End::Node(reason, message) | End::Skipped(reason, message) => {
                self.fail(node, usize::MAX, *reason, message, now);
            }
            End::AlreadyWarm | End::Abandoned => {}
        }
    }

    /// `position` beyond the images: the node's failure, not one image's.
    fn fail(&mut self, node: &str, position: usize, reason: Reason, message: &str, now: Timestamp) {
        let failure = FailedNode {
            node: node.into(),
            image: self.images.get(position).map(|image| image.image.clone()).unwrap_or_default(),
            reason: reason.as_str().into(),
            message: short(message, MAX_MESSAGE),
            time: seconds(now),
        };
        let size: usize = self.failures.iter().chain([&failure]).map(size).sum();
        if self.failures.len() < MAX_FAILED_NODES && size <= MAX_FAILURES {
            self.failures.push(failure);
        }
    }

    /// Writes the results into a status.
    pub(super) fn fill(&self, status: &mut PrewarmTaskStatus) {
        status.total_nodes = u32::try_from(self.letters.len()).unwrap_or(u32::MAX);
        status.succeeded_nodes = self.warm();
        status.already_warm_nodes = self.count(NodeState::AlreadyWarm);
        status.failed_node_count = self.count(NodeState::Failed);
        status.skipped_nodes = self.count(NodeState::Skipped);
        status.failed_nodes.clone_from(&self.failures);
        status.images.clone_from(&self.images);
        status.node_states = String::from_utf8_lossy(&self.letters).into_owned();
        status.progress = Some(format!("{}/{} Nodes", status.succeeded_nodes, status.total_nodes));
    }

    /// For people: what failed, by reason, most frequent first.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("warm on {} of {} nodes", self.warm(), self.letters.len());
        let mut reasons: Vec<(&str, usize)> = Vec::new();
        for failure in &self.failures {
            match reasons.iter_mut().find(|(reason, _)| *reason == failure.reason) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => reasons.push((&failure.reason, 1)),
            }
        }
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (reason, count) in reasons {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {reason}: {count}");
        }
        text
    }
}

impl End {
    /// Whether another try may mend all that went wrong.
    fn may_pass(&self) -> bool {
        match self {
            Self::Images(outcomes) | Self::Behind(outcomes) => {
                let mut bad = outcomes.iter().filter(|outcome| !matches!(outcome, ImageOutcome::Warm(_))).peekable();
                bad.peek().is_some()
                    && bad.all(|outcome| !matches!(outcome, ImageOutcome::Failed(r, _) if !r.may_pass()))
            }
            Self::Node(reason, _) => reason.may_pass(),
            Self::AlreadyWarm | Self::Skipped(..) | Self::Abandoned => false,
        }
    }
}

/// What is said of an image that is not warm.
fn complaint(outcome: ImageOutcome) -> (Reason, String) {
    match outcome {
        ImageOutcome::Failed(reason, message) | ImageOutcome::Open(Some((reason, message))) => (reason, message),
        ImageOutcome::Open(None) | ImageOutcome::Warm(_) => (Reason::Timeout, "not done in time".into()),
    }
}

fn short(message: &str, most: usize) -> String {
    message.chars().take(most).collect()
}

/// What a failure takes as JSON, in bytes: its texts, and about 100 for names and marks.
fn size(failure: &FailedNode) -> usize {
    [&failure.node, &failure.image, &failure.reason, &failure.message]
        .map(String::len)
        .iter()
        .fold(100, |sum, len| usize::saturating_add(sum, *len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(nodes: usize) -> Record {
        let images = ["a:1", "b:1"].map(|text| text.parse().unwrap());
        Record::restore(nodes, &images, &PrewarmTaskStatus::default())
    }

    fn missing() -> End {
        End::Images(vec![ImageOutcome::Warm(None), ImageOutcome::Failed(Reason::ImageNotFound, "not found".into())])
    }

    fn unreachable() -> End {
        let complaint = (Reason::RegistryUnreachable, "i/o timeout".to_owned());
        End::Images(vec![ImageOutcome::Warm(None), ImageOutcome::Open(Some(complaint))])
    }

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    #[test]
    fn a_typing_error_is_given_up_after_three_nodes() {
        let mut record = record(5);
        for index in 0..3 {
            assert_eq!(record.given_up(1), None);
            record.end(index, &format!("n{index}"), missing(), false, now());
        }
        assert_eq!(record.given_up(1).unwrap().reason, "ImageNotFound");
        assert_eq!(record.given_up(0), None);
    }

    #[test]
    fn what_one_node_could_have_is_not_given_up() {
        let mut record = record(5);
        record.end(0, "n0", End::AlreadyWarm, false, now());
        for index in 1..5 {
            record.end(index, &format!("n{index}"), missing(), false, now());
        }
        assert_eq!(record.given_up(1), None);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let mut record = record(3);
        assert_eq!(record.end(0, "n0", unreachable(), true, now()), NodeState::Retrying(1));
        assert_eq!(record.end(1, "n1", missing(), true, now()), NodeState::Failed);
        assert_eq!(
            record.end(2, "n2", End::Node(Reason::QuotaExceeded, "quota".into()), true, now()),
            NodeState::Retrying(1)
        );
        assert_eq!(record.retrying().collect::<Vec<_>>(), [0, 2]);
        assert!(!record.all_ended());
        let good = End::Images(vec![ImageOutcome::Warm(None), ImageOutcome::Warm(None)]);
        assert_eq!(record.end(0, "n0", good, true, now()), NodeState::Succeeded);
        assert_eq!(record.end(2, "n2", unreachable(), false, now()), NodeState::Failed);
        let mut status = PrewarmTaskStatus::default();
        record.fill(&mut status);
        let listed: Vec<_> = status.failed_nodes.iter().map(|f| (f.node.as_str(), f.reason.as_str())).collect();
        assert_eq!(listed, [("n1", "ImageNotFound"), ("n2", "RegistryUnreachable")]);
        assert_eq!((status.images[1].succeeded, status.images[1].failed), (1, 2));
        assert_eq!(status.node_states, "sff");
    }

    #[test]
    fn the_longest_status_stays_below_200_kb() {
        let images: Vec<Reference> = (0..100)
            .map(|n| format!("registry.example/{}{n:03}:{}", "a/".repeat(110), "t".repeat(120)).parse().unwrap())
            .collect();
        let nodes = 150;
        let mut record = Record::restore(nodes, &images, &PrewarmTaskStatus::default());
        let message = "not found ".repeat(100);
        for index in 0..nodes {
            let node = format!("{index:04}{}", "n".repeat(249));
            let outcomes =
                images.iter().map(|_| ImageOutcome::Failed(Reason::ImageNotFound, message.clone())).collect();
            record.end(index, &node, End::Images(outcomes), false, now());
        }
        let mut status = PrewarmTaskStatus::default();
        record.fill(&mut status);
        let ignored = crate::task::IgnoredNode { node: "n".repeat(253), reason: "NotReady".into() };
        status.ignored_nodes = vec![ignored; crate::task::resource::MAX_IGNORED_NODES];
        status.node_states = "f".repeat(5000);
        status.batch_ends = vec![1_000_000; crate::task::resource::MAX_BATCH_ENDS];
        let size = serde_json::to_vec(&status).unwrap().len();
        assert!((100_000..200_000).contains(&size), "{size} bytes");
        assert_eq!(status.failed_node_count, 150);
        assert!(!status.failed_nodes.is_empty());
    }
}
