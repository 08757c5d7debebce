//! What has been asked for lately.

use std::time::Duration;

use dashmap::DashMap;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::coalesce::group_spec;
use crate::{
    image::Reference,
    task::{Phase, PrewarmTask, PrewarmTaskSpec},
    workload::Workload,
};

/// How long an image counts as asked for. Long enough for any rollout; short enough that an image that the kubelet has
/// collected in the meantime is warmed again at the next one.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Entries kept: 100,000 of 32 bytes and their overhead are about 10 MB. Above it everything is forgotten, which costs a
/// few tasks that find their images present.
const MAX_ENTRIES: usize = 100_000;

/// Placement, credentials, options, namespace and one image, as a hash.
type Key = [u8; 16];

/// Images asked for lately, by where and with what.
#[derive(Debug, Default)]
pub struct Seen {
    expiry: DashMap<Key, Instant>,
}

impl Seen {
    /// Whether all that the workload asks for was asked for already.
    #[must_use]
    pub fn covers(&self, workload: &Workload, now: Instant) -> bool {
        let spec = group_spec(workload);
        workload
            .images
            .iter()
            .all(|image| self.expiry.get(&key(&workload.namespace, &spec, image)).is_some_and(|expiry| *expiry > now))
    }

    /// Notes that a task asks for its images.
    pub fn mark(&self, namespace: &str, spec: &PrewarmTaskSpec, now: Instant) {
        if self.expiry.len() > MAX_ENTRIES {
            self.expiry.retain(|_, expiry| *expiry > now);
        }
        if self.expiry.len() > MAX_ENTRIES {
            self.expiry.clear();
        }
        for image in images(spec) {
            self.expiry.insert(key(namespace, spec, &image), now + LIFETIME);
        }
    }

    /// Takes a mark back.
    pub fn forget(&self, namespace: &str, spec: &PrewarmTaskSpec) {
        for image in images(spec) {
            self.expiry.remove(&key(namespace, spec, &image));
        }
    }

    /// Learns from a task that exists, whoever made it: the other replica, or this one before a restart. One that failed
    /// or was cancelled covers nothing.
    pub fn learn(&self, task: &PrewarmTask, now: Instant) {
        let namespace = task.namespace().unwrap_or_default();
        match task.phase() {
            Phase::Failed | Phase::Cancelled => self.forget(&namespace, &task.spec),
            _ => self.mark(&namespace, &task.spec, now),
        }
    }
}

fn images(spec: &PrewarmTaskSpec) -> impl Iterator<Item = Reference> {
    spec.images.iter().filter_map(|image| image.parse().ok())
}

fn key(namespace: &str, spec: &PrewarmTaskSpec, image: &Reference) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(group_key(namespace, spec));
    hasher.update(image.normalized().as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(&hasher.finalize()[..16]);
    key
}

/// All of a task but its images. Lists that order nothing are compared as they are: the same template gives the same.
pub(super) fn group_key(namespace: &str, spec: &PrewarmTaskSpec) -> Vec<u8> {
    let parts = serde_json::json!([
        namespace,
        spec.node_selector,
        spec.node_affinity,
        spec.tolerations,
        spec.nodes,
        spec.batch_size,
        spec.timeout,
        spec.priority,
        spec.image_pull_secrets,
        spec.service_account_name,
    ]);
    parts.to_string().into_bytes()
}
