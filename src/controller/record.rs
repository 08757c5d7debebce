//! The results of a task so far: what its status says, and what a successor goes on from.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;

use super::conditions::seconds;
use crate::{
    image::Reference,
    task::{FailedNode, ImageStatus, PrewarmTaskStatus, resource::MAX_FAILED_NODES},
    worker::{ImageOutcome, Reason},
};

/// Letter of a node that has not ended.
const WAITING: u8 = b'.';
/// Longest message kept of one failure, in characters: the kubelet's are a few hundred.
const MAX_MESSAGE: usize = 500;

/// How a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With one outcome per image.
    Images(Vec<ImageOutcome>),
    /// Failed as a whole.
    Node(Reason, String),
    /// Not tried.
    Skipped(Reason, String),
}

/// Results by node and by image.
#[derive(Debug, Clone)]
pub(super) struct Record {
    letters: Vec<u8>,
    images: Vec<ImageStatus>,
    failures: Vec<FailedNode>,
}

impl Record {
    /// Takes up what `status` has of a plan of `total` nodes.
    pub(super) fn restore(total: usize, images: &[Reference], status: &PrewarmTaskStatus) -> Self {
        let mut letters = status.node_states.clone().into_bytes();
        letters.resize(total, WAITING);
        let fresh = |image: &Reference| ImageStatus { image: image.as_written().into(), ..ImageStatus::default() };
        let known = status.images.len() == images.len();
        Self {
            letters,
            images: if known { status.images.clone() } else { images.iter().map(fresh).collect() },
            failures: status.failed_nodes.clone(),
        }
    }

    pub(super) fn has_ended(&self, index: usize) -> bool {
        self.letters.get(index).is_some_and(|letter| *letter != WAITING)
    }

    pub(super) fn all_ended(&self) -> bool {
        !self.letters.contains(&WAITING)
    }

    pub(super) fn has_failed(&self, index: usize) -> bool {
        self.letters.get(index) == Some(&b'f')
    }

    fn count(&self, wanted: u8) -> u32 {
        self.letters.iter().map(|letter| u32::from(*letter == wanted)).sum()
    }

    pub(super) fn succeeded(&self) -> u32 {
        self.count(b's')
    }

    pub(super) fn letters(&self) -> String {
        String::from_utf8_lossy(&self.letters).into_owned()
    }

    /// Notes the end of a node. A node ends once: a second end is ignored.
    pub(super) fn end(&mut self, index: usize, node: &str, end: End, now: Timestamp) {
        if self.has_ended(index) || index >= self.letters.len() {
            return;
        }
        self.letters[index] = match end {
            End::Images(outcomes) => self.end_images(node, outcomes, now),
            End::Node(reason, message) => {
                self.images.iter_mut().for_each(|image| image.failed += 1);
                self.fail(node, "", reason, &message, now);
                b'f'
            }
            End::Skipped(reason, message) => {
                self.fail(node, "", reason, &message, now);
                b'k'
            }
        };
    }

    fn end_images(&mut self, node: &str, outcomes: Vec<ImageOutcome>, now: Timestamp) -> u8 {
        let mut letter = b's';
        for (position, outcome) in outcomes.into_iter().enumerate() {
            let Some(image) = self.images.get_mut(position) else { continue };
            let (reason, message) = match outcome {
                ImageOutcome::Warm(digest) => {
                    image.succeeded += 1;
                    image.digest = digest.or(image.digest.take());
                    continue;
                }
                ImageOutcome::Failed(reason, message) => (reason, message),
                ImageOutcome::Open(complaint) => complaint.unwrap_or((Reason::Timeout, "not done in time".into())),
            };
            image.failed += 1;
            letter = b'f';
            let name = image.image.clone();
            self.fail(node, &name, reason, &message, now);
        }
        letter
    }

    fn fail(&mut self, node: &str, image: &str, reason: Reason, message: &str, now: Timestamp) {
        if self.failures.len() < MAX_FAILED_NODES {
            self.failures.push(FailedNode {
                node: node.into(),
                image: image.into(),
                reason: reason.as_str().into(),
                message: message.chars().take(MAX_MESSAGE).collect(),
                time: seconds(now),
            });
        }
    }

    /// Writes the results into a status.
    pub(super) fn fill(&self, status: &mut PrewarmTaskStatus) {
        status.total_nodes = u32::try_from(self.letters.len()).unwrap_or(u32::MAX);
        status.succeeded_nodes = self.succeeded();
        status.failed_node_count = self.count(b'f');
        status.skipped_nodes = self.count(b'k');
        status.failed_nodes.clone_from(&self.failures);
        status.images.clone_from(&self.images);
        status.node_states = self.letters();
        status.progress = Some(format!("{}/{} Nodes", status.succeeded_nodes, status.total_nodes));
    }

    /// For people: what failed, by reason, most frequent first.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("warm on {} of {} nodes", self.succeeded(), self.letters.len());
        let mut reasons: Vec<(&str, usize)> = Vec::new();
        for failure in &self.failures {
            match reasons.iter_mut().find(|(reason, _)| *reason == failure.reason) {
                Some((_, count)) => *count += 1,
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
