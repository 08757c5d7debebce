//! Garbage collection of images, as in the kubelet's image GC manager.
//!
//! Facts, read in `pkg/kubelet/images/image_gc_manager.go`:
//!
//! - Each pass first detects images: one that is new since the last pass gets the pass's time as
//!   its first detection, one that an existing container uses gets it as its last use. A container
//!   that has exited exists until its pod is deleted. An image that no container has used has no
//!   time of last use, and sorts first.
//! - If a maximum age is set and the kubelet has run for longer, images whose last use is longer ago
//!   are removed, whatever the free space.
//! - If the used share reaches the high threshold, images that are not in use are removed in order
//!   of last use, then of first detection, until the *reported* sizes of the removed images reach
//!   what is missing to the low threshold. An image detected for less than the minimum age is kept.
//! - The freed space is not the reported size: containerd frees the layers that no other image has,
//!   blobs and files.
//! - Under disk pressure the eviction manager removes all images that are not in use
//!   (`DeleteUnusedImages`), with the same minimum age.

use std::{collections::BTreeSet, time::Duration};

use super::ImageStore;
use crate::{image::Digest, time::SimTime};

/// Settings of the garbage collection of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Used share of the disk from which images are removed, in percent
    /// (`imageGCHighThresholdPercent`, 85 by default).
    pub high_percent: u64,
    /// Used share of the disk down to which images are removed, in percent
    /// (`imageGCLowThresholdPercent`, 80 by default).
    pub low_percent: u64,
    /// Time since its detection during which an image is kept (`imageMinimumGCAge`, 2 minutes by
    /// default).
    pub min_age: Duration,
    /// Time since its last use after which an image is removed (`imageMaximumGCAge`, none by
    /// default).
    pub max_age: Option<Duration>,
    /// Time between two passes (`ImageGCPeriod`, 5 minutes).
    pub period: Duration,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: None,
            period: Duration::from_secs(300),
        }
    }
}

/// Cause of an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionCause {
    /// The image was not used for longer than the maximum age.
    Age,
    /// The used share of the disk had reached the high threshold.
    Space,
    /// The node was under disk pressure.
    Pressure,
}

/// Image that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Image ID.
    pub id: Digest,
    /// Names, in alphabetical order.
    pub names: Vec<String>,
    /// Cause.
    pub cause: EvictionCause,
    /// Size that the container runtime reported, in bytes.
    pub size: u64,
    /// Bytes of the disk that became free.
    pub freed: u64,
    /// True if a container of a workload had used the image.
    pub was_used: bool,
    /// Bytes that were downloaded for the freed layers and that no workload has used.
    pub bytes_in_vain: u64,
}

/// Result of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Images that were removed, in order.
    pub evictions: Vec<Eviction>,
    /// Reported sizes that should have been removed and were not, in bytes: the kubelet then emits
    /// the event `FreeDiskSpaceFailed`.
    pub missing: u64,
}

impl ImageStore {
    /// Makes one pass. `in_use` are the IDs of images that an existing container uses, `started` is
    /// the start of the kubelet.
    pub fn collect(
        &mut self,
        policy: &GcPolicy,
        in_use: &BTreeSet<Digest>,
        started: SimTime,
        now: SimTime,
    ) -> GcReport {
        let mut report = GcReport::default();
        let mut candidates = self.detect(in_use, now);
        if let Some(max_age) = policy.max_age.filter(|max_age| now.since(started) > *max_age) {
            candidates.retain(|id| {
                let is_old = self.images.get(id).is_some_and(|image| {
                    image.last_used.is_none_or(|used| now.since(used) > max_age)
                });
                if is_old {
                    report.evictions.extend(self.evict(id, EvictionCause::Age));
                }
                !is_old
            });
        }
        let used_percent = 100_u64.saturating_sub(self.free_percent());
        if self.disk.capacity > 0 && used_percent >= policy.high_percent {
            let target = percent_of(self.disk.capacity, 100_u64.saturating_sub(policy.low_percent));
            let mut missing = target.saturating_sub(self.free_bytes());
            for id in candidates {
                if missing == 0 {
                    break;
                }
                if self.is_young(&id, policy, now) {
                    continue;
                }
                if let Some(eviction) = self.evict(&id, EvictionCause::Space) {
                    missing = missing.saturating_sub(eviction.size);
                    report.evictions.push(eviction);
                }
            }
            report.missing = missing;
        }
        report
    }

    /// Removes all images that no existing container uses, except those detected for less than the
    /// minimum age.
    pub fn remove_unused(
        &mut self,
        policy: &GcPolicy,
        in_use: &BTreeSet<Digest>,
        now: SimTime,
    ) -> Vec<Eviction> {
        let mut candidates = self.detect(in_use, now);
        candidates.retain(|id| !self.is_young(id, policy, now));
        candidates.iter().filter_map(|id| self.evict(id, EvictionCause::Pressure)).collect()
    }

    /// Detects new and used images, and returns those that are not in use in order of eviction.
    fn detect(&mut self, in_use: &BTreeSet<Digest>, now: SimTime) -> Vec<Digest> {
        let mut unused = Vec::new();
        for (id, image) in &mut self.images {
            let detected = *image.first_detected.get_or_insert(now);
            if in_use.contains(id) {
                image.last_used = Some(now);
            } else {
                unused.push((image.last_used, detected, *id));
            }
        }
        unused.sort_unstable();
        unused.into_iter().map(|(_, _, id)| id).collect()
    }

    fn is_young(&self, id: &Digest, policy: &GcPolicy, now: SimTime) -> bool {
        let detected = self.images.get(id).and_then(|image| image.first_detected);
        detected.is_none_or(|detected| now.since(detected) < policy.min_age)
    }

    pub(super) fn evict(&mut self, id: &Digest, cause: EvictionCause) -> Option<Eviction> {
        let image = self.images.remove(id)?;
        for name in &image.names {
            self.names.remove(name);
        }
        let free = self.free_bytes();
        let layers = image.image.layers().iter();
        let bytes_in_vain = layers
            .filter_map(|layer| self.release_layer(&layer.digest))
            .fold(0, u64::saturating_add);
        self.revision = self.revision.saturating_add(1);
        Some(Eviction {
            id: *id,
            names: image.names.into_iter().collect(),
            cause,
            size: image.image.size(),
            freed: self.free_bytes().saturating_sub(free),
            was_used: image.is_used,
            bytes_in_vain,
        })
    }
}

/// Returns a share of some bytes.
fn percent_of(bytes: u64, percent: u64) -> u64 {
    let share = u128::from(bytes).saturating_mul(u128::from(percent)) / 100;
    u64::try_from(share).unwrap_or(u64::MAX)
}
