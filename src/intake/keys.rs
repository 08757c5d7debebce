//! What identifies a piece of work: an image, on which nodes, with what. *Pure.*

use sha2::{Digest, Sha256};

use crate::{
    image::Reference,
    task::{LocalReference, PrewarmTaskSpec},
    workload::Workload,
};

/// Namespace, placement, credentials, options and one image, as a hash.
pub type Key = [u8; 16];

/// The spec of a workload's group: everything but images.
pub(super) fn group_spec(workload: &Workload) -> PrewarmTaskSpec {
    let filled = |empty: bool| (!empty).then_some(());
    let (placement, options) = (&workload.placement, &workload.options);
    let secrets = &workload.credentials.image_pull_secrets;
    let reference = |name: &String| LocalReference { name: name.clone() };
    PrewarmTaskSpec {
        node_selector: filled(placement.node_selector.is_empty()).map(|()| placement.node_selector.clone()),
        node_affinity: placement.node_affinity.clone(),
        tolerations: filled(placement.tolerations.is_empty()).map(|()| placement.tolerations.clone()),
        nodes: options.nodes.clone(),
        batch_size: options.batch_size.clone(),
        priority: options.priority,
        timeout: options.timeout.clone(),
        pull_method: options.pull_method,
        image_pull_secrets: filled(secrets.is_empty()).map(|()| secrets.iter().map(reference).collect()),
        service_account_name: workload.credentials.service_account_name.clone(),
        ..PrewarmTaskSpec::new(Vec::new())
    }
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
        spec.pull_method,
    ]);
    parts.to_string().into_bytes()
}

fn keys<'a>(group: &[u8], images: impl Iterator<Item = &'a Reference>) -> Vec<Key> {
    let mut hasher = Sha256::new();
    hasher.update(group);
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
    keys(&group_key(&workload.namespace, &group_spec(workload)), workload.images.iter())
}

/// What several workloads ask for.
#[must_use]
pub fn keys_of_all(workloads: &[Workload]) -> Vec<Key> {
    workloads.iter().flat_map(keys_of).collect()
}

/// What a task does: one key per image.
pub(super) fn keys_of_task(namespace: &str, spec: &PrewarmTaskSpec) -> Vec<Key> {
    let images: Vec<Reference> = spec.images.iter().filter_map(|image| image.parse().ok()).collect();
    keys(&group_key(namespace, spec), images.iter())
}
