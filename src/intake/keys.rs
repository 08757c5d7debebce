//! What identifies a piece of work: an image, on which nodes, with what. *Pure.*

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    image::Reference,
    task::{Amount, PrewarmTaskSpec, PullMethod},
    workload::Workload,
};

/// Namespace, placement, credentials, options and one image, as a hash.
pub type Key = [u8; 16];

/// All of a task but its images. Lists that order nothing are compared as they are: the same template gives the same.
#[derive(Serialize)]
struct Group<'a> {
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

impl<'a> Group<'a> {
    fn of_task(namespace: &'a str, spec: &'a PrewarmTaskSpec) -> Self {
        Self {
            namespace,
            node_selector: spec.node_selector.as_ref().filter(|labels| !labels.is_empty()),
            node_affinity: spec.node_affinity.as_ref(),
            tolerations: spec.tolerations.as_deref().unwrap_or_default(),
            nodes: &spec.nodes,
            batch_size: &spec.batch_size,
            timeout: &spec.timeout,
            priority: spec.priority,
            secrets: spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect(),
            account: spec.service_account_name.as_deref(),
            method: spec.pull_method,
        }
    }

    fn of_workload(workload: &'a Workload) -> Self {
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
        // Neither a hasher nor values of these types can fail to be written.
        let _ = serde_json::to_writer(&mut hasher, self);
        hasher
    }
}

/// What the tasks of a workload have in common, as a hash.
pub(super) fn group_key(workload: &Workload) -> Vec<u8> {
    Group::of_workload(workload).hasher().finalize().to_vec()
}

fn keys<'a>(hasher: &Sha256, images: impl Iterator<Item = &'a Reference>) -> Vec<Key> {
    let of = |image: &Reference| {
        let mut one = hasher.clone();
        one.update(image.normalized().as_bytes());
        let mut key = Key::default();
        key.copy_from_slice(&one.finalize()[..16]);
        key
    };
    images.map(of).collect()
}

/// What a workload asks for: one key per image, in their order.
#[must_use]
pub fn keys_of(workload: &Workload) -> Vec<Key> {
    keys(&Group::of_workload(workload).hasher(), workload.images.iter())
}

/// What several workloads ask for.
#[must_use]
pub fn keys_of_all(workloads: &[Workload]) -> Vec<Key> {
    workloads.iter().flat_map(keys_of).collect()
}

/// What a task does: one key per image.
pub(super) fn keys_of_task(namespace: &str, spec: &PrewarmTaskSpec) -> Vec<Key> {
    let images: Vec<Reference> = spec.images.iter().filter_map(|image| image.parse().ok()).collect();
    keys(&Group::of_task(namespace, spec).hasher(), images.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Credentials, Placement};

    #[test]
    fn a_task_does_what_its_workload_asks_for() {
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
            credentials: Credentials {
                image_pull_secrets: vec!["s".into()],
                service_account_name: Some("robot".into()),
            },
            ..bare.clone()
        };
        for workload in [bare, full] {
            let images = workload.images.iter().map(|image| image.as_written().to_owned()).collect();
            let spec = PrewarmTaskSpec { images, ..workload.group_spec() };
            assert_eq!(keys_of_task("shop", &spec), keys_of(&workload));
            assert_ne!(keys_of_task("bank", &spec), keys_of(&workload));
        }
    }
}
