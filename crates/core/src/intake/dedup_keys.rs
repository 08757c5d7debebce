//! Deduplication keys: hashes of one image with its placement, credentials and options. Pure: no
//! client, no clock, no I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    image::ImageRef,
    task::{Amount, PrewarmTaskSpec, PullMethod},
    workload::Workload,
};

/// Hash of namespace, placement, credentials, options and one image.
pub type DedupKey = [u8; 16];

/// Fields of a task except its images. Lists are compared in their order, also those whose order
/// has no meaning: an equal template results in equal lists. The serialized field names are part of
/// the hash.
#[derive(Serialize)]
struct TaskGroup<'a> {
    namespace: &'a str,
    node_selector: Option<&'a BTreeMap<String, String>>,
    node_affinity: Option<&'a NodeSelector>,
    tolerations: &'a [Toleration],
    nodes: &'a Amount,
    batch_size: &'a Amount,
    timeout: &'a str,
    priority: u32,
    secrets: Vec<&'a str>,
    account: Option<&'a str>,
    method: PullMethod,
}

impl<'a> TaskGroup<'a> {
    fn from_task(namespace: &'a str, spec: &'a PrewarmTaskSpec) -> Self {
        Self {
            namespace,
            node_selector: spec.node_selector.as_ref().filter(|labels| !labels.is_empty()),
            node_affinity: spec.node_affinity.as_ref(),
            tolerations: spec.tolerations.as_deref().unwrap_or_default(),
            nodes: &spec.nodes,
            batch_size: &spec.batch_size,
            timeout: &spec.timeout,
            priority: spec.priority,
            secrets: spec
                .image_pull_secrets
                .iter()
                .flatten()
                .map(|secret| secret.name.as_str())
                .collect(),
            account: spec.service_account_name.as_deref(),
            method: spec.pull_method,
        }
    }

    fn from_workload(workload: &'a Workload) -> Self {
        let Workload { namespace, placement, credentials, options, .. } = workload;
        Self {
            namespace,
            node_selector: Some(&placement.node_selector).filter(|labels| !labels.is_empty()),
            node_affinity: placement.node_affinity.as_ref(),
            tolerations: &placement.tolerations,
            nodes: &options.nodes,
            batch_size: &options.batch_size,
            timeout: &options.timeout,
            priority: options.priority,
            secrets: credentials.image_pull_secrets.iter().map(String::as_str).collect(),
            account: credentials.service_account_name.as_deref(),
            method: options.pull_method,
        }
    }

    fn hasher(&self) -> Sha256 {
        let mut hasher = Sha256::new();
        // Neither the hasher nor the serialization of these types can fail.
        let _ = serde_json::to_writer(&mut hasher, self);
        hasher
    }
}

/// Returns the hash of the fields that all tasks of a workload have in common.
#[must_use]
pub fn group_key(workload: &Workload) -> Vec<u8> {
    TaskGroup::from_workload(workload).hasher().finalize().to_vec()
}

fn image_keys<'a>(hasher: &Sha256, images: impl Iterator<Item = &'a ImageRef>) -> Vec<DedupKey> {
    let of = |image: &ImageRef| {
        let mut one = hasher.clone();
        one.update(image.normalized().as_bytes());
        let mut key = DedupKey::default();
        key.copy_from_slice(&one.finalize()[..16]);
        key
    };
    images.map(of).collect()
}

/// Returns the keys of a workload: one for each image, in the order of its images.
#[must_use]
pub fn dedup_keys(workload: &Workload) -> Vec<DedupKey> {
    image_keys(&TaskGroup::from_workload(workload).hasher(), workload.images.iter())
}

/// Returns the keys of several workloads.
#[must_use]
pub fn dedup_keys_of_all(workloads: &[Workload]) -> Vec<DedupKey> {
    workloads.iter().flat_map(dedup_keys).collect()
}

/// Returns the keys of a task: one for each image that can be parsed.
#[must_use]
pub fn dedup_keys_of_task(namespace: &str, spec: &PrewarmTaskSpec) -> Vec<DedupKey> {
    let images: Vec<ImageRef> = spec.images.iter().filter_map(|image| image.parse().ok()).collect();
    image_keys(&TaskGroup::from_task(namespace, spec).hasher(), images.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Placement, PullCredentials};

    #[test]
    fn task_and_workload_have_equal_keys() {
        let bare = Workload {
            namespace: "shop".into(),
            images: vec!["nginx".parse().unwrap(), "redis:7".parse().unwrap()],
            ..Workload::default()
        };
        let toleration = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        let full = Workload {
            placement: Placement {
                node_selector: [("a".to_owned(), "b".to_owned())].into(),
                node_affinity: Some(NodeSelector::default()),
                tolerations: vec![toleration],
            },
            credentials: PullCredentials {
                image_pull_secrets: vec!["s".into()],
                service_account_name: Some("robot".into()),
            },
            ..bare.clone()
        };
        for workload in [bare, full] {
            let images =
                workload.images.iter().map(|image| image.as_written().to_owned()).collect();
            let spec = PrewarmTaskSpec { images, ..workload.task_spec() };
            assert_eq!(dedup_keys_of_task("shop", &spec), dedup_keys(&workload));
            assert_ne!(dedup_keys_of_task("bank", &spec), dedup_keys(&workload));
        }
    }
}
