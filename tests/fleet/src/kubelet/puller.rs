//! Queue of pulls: the kubelet's image puller in front of the container runtime.
//!
//! Facts, read in `pkg/kubelet/images/puller.go` and `helpers.go`:
//!
//! - With serialized pulls, requests wait in the order of their arrival, and the presence of the
//!   image is not checked again when the turn comes: the second of two pods that need the same
//!   image makes its own request to the runtime, which finds all layers and only asks the registry.
//! - With parallel pulls the runtime gets both requests. containerd resolves the reference twice but
//!   downloads and unpacks each layer once: the second request waits for the first one's ingest
//!   (`content.OpenWriter`) and unpacking (`unpackDuplicationSuppressor`).
//! - `registryPullQPS` is checked when the turn comes; a pull in excess fails at once.
//! - Each pull of a pod is requested by the one worker of the pod, so a pod has at most one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use prewarmer_api::image::ImageRef;

use super::{pull::Pull, settings::KubeletSettings, timers::Timers};
use crate::{
    ids::{NodeId, PodId},
    image::{Digest, Layer},
    registry::PullError,
    store::ImageStore,
    time::{SimTime, micros},
};

/// Request of a pull.
#[derive(Debug, Clone)]
pub(super) struct PullRequest {
    pub(super) pod: PodId,
    pub(super) reference: ImageRef,
    /// Pull secrets of the pod, as `namespace/name`.
    pub(super) secrets: Vec<String>,
    /// True if the pod no longer needs it.
    pub(super) is_cancelled: bool,
}

/// Successful pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pulled {
    /// Duration of the request to the runtime.
    pub(super) time: Duration,
    /// Size of the image as the runtime reports it, in bytes.
    pub(super) size: u64,
    /// True if the node had all content before.
    pub(super) was_present: bool,
}

/// Result of a pull, which its pod has not received yet.
#[derive(Debug)]
pub(super) struct PullResult {
    pub(super) pod: PodId,
    pub(super) result: Result<Pulled, PullError>,
}

/// Parts of the kubelet that pulls change.
#[derive(Debug)]
pub(super) struct Host<'a> {
    pub(super) node: NodeId,
    pub(super) settings: &'a KubeletSettings,
    pub(super) store: &'a mut ImageStore,
    pub(super) timers: &'a mut Timers,
}

/// Progress of a layer that is not unpacked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerStage {
    /// The registry has not answered yet.
    Requested,
    /// The network transfers it.
    Downloading,
    /// The blob is in the store.
    Downloaded,
    /// It is being unpacked.
    Unpacking,
}

/// Layer that at least one pull waits for.
#[derive(Debug)]
pub(super) struct LayerWork {
    pub(super) layer: Layer,
    pub(super) stage: LayerStage,
    /// Pulls that wait for it, the one that requested it first.
    pub(super) pulls: Vec<PodId>,
    /// Normalized reference of the first one.
    pub(super) image: String,
}

/// Tokens of a rate limit: one for each pull.
#[derive(Debug, Clone, Copy)]
struct TokenBucket {
    /// Millionths of tokens.
    tokens: u64,
    updated: SimTime,
}

/// Millionths of a token.
const TOKEN: u64 = 1_000_000;

impl TokenBucket {
    /// Takes a token; reports whether there was one.
    fn take(&mut self, settings: &KubeletSettings, now: SimTime) -> bool {
        if settings.pull_qps == 0 {
            return true;
        }
        // Tokens per second times microseconds are millionths of tokens.
        let elapsed = micros(now.since(self.updated));
        let more = elapsed.saturating_mul(u64::from(settings.pull_qps));
        let full = u64::from(settings.pull_burst).saturating_mul(TOKEN);
        self.tokens = self.tokens.saturating_add(more).min(full);
        self.updated = now;
        let rest = self.tokens.checked_sub(TOKEN);
        self.tokens = rest.unwrap_or(self.tokens);
        rest.is_some()
    }
}

/// Pulls of one node.
#[derive(Debug)]
pub(super) struct Puller {
    /// Pulls at the runtime, by pod.
    pub(super) active: BTreeMap<PodId, Pull>,
    /// Requests in the order of their arrival.
    waiting: VecDeque<PullRequest>,
    /// Layers that active pulls wait for.
    pub(super) layers: BTreeMap<Digest, LayerWork>,
    /// Results that the pods have not received yet. They are delivered one after another from the
    /// outermost function, so that a pod with a thousand failing pulls needs no deep stack.
    pub(super) results: VecDeque<PullResult>,
    bucket: TokenBucket,
}

impl Puller {
    /// Creates a puller without pulls.
    pub(super) fn new(settings: &KubeletSettings, now: SimTime) -> Self {
        let tokens = u64::from(settings.pull_burst).saturating_mul(TOKEN);
        Self {
            active: BTreeMap::new(),
            waiting: VecDeque::new(),
            layers: BTreeMap::new(),
            results: VecDeque::new(),
            bucket: TokenBucket { tokens, updated: now },
        }
    }

    /// Adds a request to the queue.
    pub(super) fn push(&mut self, request: PullRequest) {
        self.waiting.push_back(request);
    }

    /// Marks the request of a pod as cancelled: it fails when its turn comes, because the pod's
    /// worker waits for the puller's answer also after the pod was deleted.
    pub(super) fn mark_cancelled(&mut self, pod: PodId) {
        for request in self.waiting.iter_mut().filter(|request| request.pod == pod) {
            request.is_cancelled = true;
        }
    }

    /// Removes the request and the result of a pod from the queues.
    pub(super) fn forget(&mut self, pod: PodId) {
        self.waiting.retain(|request| request.pod != pod);
        self.results.retain(|result| result.pod != pod);
    }

    /// Removes and returns the next request whose turn has come. Cancelled requests, and those in
    /// excess of the rate limit, fail.
    pub(super) fn next_request(
        &mut self,
        settings: &KubeletSettings,
        now: SimTime,
    ) -> Option<PullRequest> {
        while settings.max_parallel_pulls.is_none_or(|max| self.active.len() < max.max(1)) {
            let request = self.waiting.pop_front()?;
            let error = if request.is_cancelled {
                PullError::Canceled(request.reference.normalized().to_owned())
            } else if self.bucket.take(settings, now) {
                return Some(request);
            } else {
                PullError::QpsExceeded
            };
            self.results.push_back(PullResult { pod: request.pod, result: Err(error) });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pod: u64) -> PullRequest {
        let reference = "registry.example/web:1".parse().unwrap();
        PullRequest { pod: PodId(pod), reference, secrets: Vec::new(), is_cancelled: false }
    }

    #[test]
    fn pulls_in_excess_of_the_burst_fail_at_once() {
        let settings = KubeletSettings {
            max_parallel_pulls: None,
            pull_qps: 1,
            pull_burst: 2,
            ..KubeletSettings::default()
        };
        let mut puller = Puller::new(&settings, SimTime::ZERO);
        (0..3).for_each(|pod| puller.push(request(pod)));
        let served: Vec<PodId> =
            std::iter::from_fn(|| puller.next_request(&settings, SimTime::ZERO))
                .map(|request| request.pod)
                .collect();
        assert_eq!(served, [PodId(0), PodId(1)]);
        let failed = puller.results.pop_front().unwrap();
        assert_eq!((failed.pod, failed.result), (PodId(2), Err(PullError::QpsExceeded)));
        puller.push(request(4));
        assert!(puller.next_request(&settings, SimTime::from_millis(999)).is_none());
        puller.push(request(5));
        assert!(puller.next_request(&settings, SimTime::from_secs(2)).is_some());
    }

    #[test]
    fn a_cancelled_request_fails_when_its_turn_comes() {
        let settings = KubeletSettings::default();
        let mut puller = Puller::new(&settings, SimTime::ZERO);
        (0..3).for_each(|pod| puller.push(request(pod)));
        puller.mark_cancelled(PodId(0));
        puller.forget(PodId(1));
        let next = puller.next_request(&settings, SimTime::ZERO).unwrap();
        assert_eq!(next.pod, PodId(2));
        let failed = puller.results.pop_front().unwrap();
        assert_eq!(failed.pod, PodId(0));
        assert!(matches!(failed.result, Err(PullError::Canceled(_))));
        assert!(puller.results.is_empty());
    }
}
