//! What a workload tells us: images, placement, credentials, annotations. *Pure.*
//!
//! In: the JSON of an object with a pod template, and what surrounds it. Out: a
//! [`Verdict`] with [`Workload`]s, and warnings for what makes no sense. Read
//! through a thin view: fields that are not looked at cost nothing and may have
//! any shape. May call `image`, `task` and `surroundings`, and knows the label of
//! `worker`s.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod annotations;
mod extract;
mod kinds;
mod policy;
#[cfg(test)]
mod table;
mod view;

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration};
use serde::Serialize;

pub use annotations::Options;
pub use extract::{Bounds, DEFAULT_NAMESPACE, ExtractError, Extracted, Manifest, extract_documents};
pub use kinds::{Kind, Kinds};
pub use policy::{DefaultMode, MAX_IMAGES, Policy, Verdict};
pub use view::{ConditionView, MetadataView, ObjectView, Owner, StatusView};

use crate::{
    image::Reference,
    task::{LocalReference, PrewarmTaskSpec},
};

/// Where a workload's pods may run, in the words of a pod spec.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must carry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeSelector>,
    /// Accepted taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// What a workload's pods pull with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Secrets of its namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Its service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// What a workload asks to have warmed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name, or the prefix that its name is made from.
    pub name: String,
    /// Its images, each once, in the order of the template.
    pub images: Vec<Reference>,
    /// Where its pods may run.
    pub placement: Placement,
    /// What its pods pull with.
    pub credentials: Credentials,
    /// What its annotations say.
    pub options: Options,
}

impl Workload {
    /// The spec of a task for it: everything but images.
    #[must_use]
    pub fn group_spec(&self) -> PrewarmTaskSpec {
        let filled = |empty: bool| (!empty).then_some(());
        let (placement, options) = (&self.placement, &self.options);
        let secrets = &self.credentials.image_pull_secrets;
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
            service_account_name: self.credentials.service_account_name.clone(),
            ..PrewarmTaskSpec::new(Vec::new())
        }
    }
}

/// Images of containers that pods carry where their template names others: a pair of the template's and the pod's for each.
#[must_use]
pub fn rewritten(object: &ObjectView, pod: &ObjectView) -> Vec<(String, String)> {
    let pairs = object.templates.iter().zip(&pod.templates).flat_map(|(template, pod)| {
        let in_pod: HashMap<&str, &str> = pod.spec.by_container().collect();
        let both = move |(name, image): (&str, &str)| Some((image.to_owned(), (*in_pod.get(name)?).to_owned()));
        template.spec.by_container().filter_map(both)
    });
    let differs = |(one, other): &(String, String)| match (one.parse::<Reference>(), other.parse::<Reference>()) {
        (Ok(one), Ok(other)) => one != other,
        _ => false,
    };
    pairs.filter(differs).collect()
}
