//! Deduplication keys: hashes of one image with its placement, credentials and options. Pure: no
//! client, no clock, no I/O.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    image::ImageRef,
    task::{Amount, PrewarmTaskSpec, PullMethod, PullPolicy},
    workload::Workload,
};

/// Hash of namespace, placement, credentials, options and one image. Its last bit is set if the
/// image is pulled with `Always`: keys of the two policies differ only there.
pub type DedupKey = [u8; 16];

/// Bit of the last byte of a key that states the pull policy.
const ALWAYS_BIT: u8 = 1;

/// Reports whether the key's image is pulled with `Always`.
#[must_use]
pub fn is_always(key: &DedupKey) -> bool {
    key[15] & ALWAYS_BIT != 0
}

/// Returns the key of the same image with the policy `Always`. A task for it is also one for the
/// weaker policy, but not the other way round.
#[must_use]
pub(super) fn always_key(key: &DedupKey) -> DedupKey {
    let mut key = *key;
    key[15] |= ALWAYS_BIT;
    key
}

/// Reports whether `keys` has the key, or that of the same image with `Always`.
#[must_use]
pub(super) fn is_satisfied(key: &DedupKey, keys: &HashSet<&DedupKey>) -> bool {
    keys.contains(key) || keys.contains(&always_key(key))
}

/// Reports whether a task with this key serves one of the `wanted` keys: an equal one, or that of
/// the same image with the weaker policy.
#[must_use]
pub(super) fn is_wanted(key: &DedupKey, wanted: &HashSet<DedupKey>) -> bool {
    let mut weaker = *key;
    weaker[15] &= !ALWAYS_BIT;
    wanted.contains(key) || wanted.contains(&weaker)
}

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

/// Returns the keys of images with the pull policies that a task sets for them, if it sets one.
fn image_keys<'a>(
    hasher: &Sha256,
    images: impl Iterator<Item = (&'a ImageRef, Option<PullPolicy>)>,
) -> Vec<DedupKey> {
    let of = |(image, policy): (&ImageRef, Option<PullPolicy>)| {
        let mut one = hasher.clone();
        one.update(image.normalized().as_bytes());
        let mut key = DedupKey::default();
        key.copy_from_slice(&one.finalize()[..16]);
        key[15] &= !ALWAYS_BIT;
        match PullPolicy::effective(policy, image) {
            PullPolicy::Always => always_key(&key),
            PullPolicy::IfNotPresent => key,
        }
    };
    images.map(of).collect()
}

/// Returns the keys of a workload: one for each image, in the order of its images.
#[must_use]
pub fn dedup_keys(workload: &Workload) -> Vec<DedupKey> {
    image_keys(&TaskGroup::from_workload(workload).hasher(), workload.images_with_overrides())
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
    let images = images.iter().map(|image| (image, spec.image_pull_policy));
    image_keys(&TaskGroup::from_task(namespace, spec).hasher(), images)
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
            let specs = workload.task_specs();
            assert_eq!(specs.len(), 1);
            assert_eq!(dedup_keys_of_task("shop", &specs[0]), dedup_keys(&workload));
            assert_ne!(dedup_keys_of_task("bank", &specs[0]), dedup_keys(&workload));
        }
    }

    #[test]
    fn keys_state_the_policy_that_applies() {
        let digest = format!("app:latest@sha256:{}", "0".repeat(64));
        let workload = Workload {
            namespace: "shop".into(),
            images: ["app", "app:1", &digest, "proxy", "proxy:1"]
                .map(|image| image.parse().unwrap())
                .into(),
            pull_policies: [(3, PullPolicy::IfNotPresent), (4, PullPolicy::Always)].into(),
            ..Workload::default()
        };
        let keys = dedup_keys(&workload);
        let always: Vec<bool> = keys.iter().map(is_always).collect();
        assert_eq!(always, [true, false, false, false, true]);
        let specs = workload.task_specs();
        let of_tasks: Vec<DedupKey> =
            specs.iter().flat_map(|spec| dedup_keys_of_task("shop", spec)).collect();
        assert_eq!(of_tasks, keys, "three tasks: by the tags, IfNotPresent, Always");
        let images: Vec<usize> = specs.iter().map(|spec| spec.images.len()).collect();
        assert_eq!(images, [3, 1, 1]);
    }

    #[test]
    fn always_satisfies_the_weaker_policy_and_not_the_other_way_round() {
        let of = |policy| {
            let spec = PrewarmTaskSpec {
                image_pull_policy: policy,
                ..PrewarmTaskSpec::new(vec!["app".into()])
            };
            dedup_keys_of_task("shop", &spec)[0]
        };
        let (weak, strong) = (of(Some(PullPolicy::IfNotPresent)), of(Some(PullPolicy::Always)));
        assert_eq!((of(None), always_key(&weak)), (strong, strong));
        assert!(is_satisfied(&weak, &[&strong].into()) && !is_satisfied(&strong, &[&weak].into()));
        assert!(is_wanted(&strong, &[weak].into()) && !is_wanted(&weak, &[strong].into()));
    }
}
