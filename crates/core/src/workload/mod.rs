//! Extraction of images, placement, pull credentials and options from workloads. Pure: no client,
//! no clock, no I/O (`extract` alone reads a monotonic clock, for its time limit).
//!
//! Input: the JSON of an object with a pod template, and the cluster context. Output: the decision
//! whether the object is warmed, with one `Workload` for each template, and warnings about invalid
//! values. Objects are parsed into a partial view: fields that are not used are skipped without
//! allocation and may have any shape. May call `image`, `task`, `cluster_context` and `worker`
//! (its label only).

// Input from other parties must not cause a panic: arithmetic saturates and indexing is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod annotations;
mod context;
mod extract;
mod kinds;
mod policy;
#[cfg(test)]
mod table;
mod view;

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};
use serde::Serialize;

pub use annotations::WarmOptions;
pub use context::{
    ClusterContext, EmptyContext, RuntimeClassScheduling, VisibleContext, WorkloadIdentity,
};
pub use extract::{
    DEFAULT_NAMESPACE, ExtractError, Extracted, ManifestLimits, ParsedManifest, extract_documents,
};
pub use kinds::{KindError, WorkloadKind, WorkloadKinds};
pub use policy::{DefaultMode, MAX_IMAGES, Policy, PolicySettings, WarmDecision};
pub use view::{ConditionView, MetadataView, ObjectView, Owner, StatusView};

use crate::{
    image::ImageRef,
    task::{LocalReference, PrewarmTaskSpec},
};

/// Nodes on which a workload's pods may run, with the meaning of the same fields of a pod spec.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeSelector>,
    /// Tolerated taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// Pull credentials of a workload's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PullCredentials {
    /// Names of pull secrets in the workload's namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Service account of the pods; `None` for the namespace's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// Workload whose images are warmed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object, or the prefix from which the API server generates it (`generateName`).
    pub name: String,
    /// Images without duplicates, in the order of the template.
    pub images: Vec<ImageRef>,
    /// Nodes on which the pods may run.
    pub placement: Placement,
    /// Credentials with which the pods' images are pulled.
    pub credentials: PullCredentials,
    /// Options from the annotations.
    pub options: WarmOptions,
}

impl Workload {
    /// Returns the spec of a task for this workload, without images.
    #[must_use]
    pub fn task_spec(&self) -> PrewarmTaskSpec {
        let filled = |empty: bool| (!empty).then_some(());
        let (placement, options) = (&self.placement, &self.options);
        let secrets = &self.credentials.image_pull_secrets;
        let reference = |name: &String| LocalReference { name: name.clone() };
        PrewarmTaskSpec {
            node_selector: filled(placement.node_selector.is_empty())
                .map(|()| placement.node_selector.clone()),
            node_affinity: placement.node_affinity.clone(),
            tolerations: filled(placement.tolerations.is_empty())
                .map(|()| placement.tolerations.clone()),
            nodes: options.nodes.clone(),
            batch_size: options.batch_size.clone(),
            priority: options.priority,
            timeout: options.timeout.clone(),
            pull_method: options.pull_method,
            image_pull_secrets: filled(secrets.is_empty())
                .map(|()| secrets.iter().map(reference).collect()),
            service_account_name: self.credentials.service_account_name.clone(),
            ..PrewarmTaskSpec::new(Vec::new())
        }
    }
}

/// Returns the images that a pod's containers have where they differ from the workload's template:
/// for each such container, a pair of the template's image and the pod's.
#[must_use]
pub fn rewritten_images(object: &ObjectView, pod: &ObjectView) -> Vec<(String, String)> {
    let pairs = object.templates.iter().zip(&pod.templates).flat_map(|(template, pod)| {
        let in_pod: HashMap<&str, &str> = pod.spec.images_by_container().collect();
        let both = move |(name, image): (&str, &str)| {
            Some((image.to_owned(), (*in_pod.get(name)?).to_owned()))
        };
        template.spec.images_by_container().filter_map(both)
    });
    let differs = |(one, other): &(String, String)| match (
        one.parse::<ImageRef>(),
        other.parse::<ImageRef>(),
    ) {
        (Ok(one), Ok(other)) => one != other,
        _ => false,
    };
    pairs.filter(differs).collect()
}
