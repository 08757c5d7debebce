//! Workload whose images are warmed, with its placement, credentials and options.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::Serialize;

use super::annotations::WarmOptions;
use crate::{
    image::ImageRef,
    task::{LocalReference, PrewarmTaskSpec, PullPolicy},
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
    /// Pull policies of images, by index, where they differ from those of the tags.
    pub pull_policies: BTreeMap<usize, PullPolicy>,
    /// Nodes on which the pods may run.
    pub placement: Placement,
    /// Credentials with which the pods' images are pulled.
    pub credentials: PullCredentials,
    /// Options from the annotations.
    pub options: WarmOptions,
}

impl Workload {
    /// Iterates over the images, each with the pull policy that a task for it must set; `None` where
    /// that of the tag applies.
    pub fn images_with_overrides(&self) -> impl Iterator<Item = (&ImageRef, Option<PullPolicy>)> {
        let images = self.images.iter().enumerate();
        images.map(|(index, image)| (image, self.pull_policies.get(&index).copied()))
    }

    /// Keeps the images that satisfy the condition, with their pull policies.
    pub fn retain_images(&mut self, mut condition: impl FnMut(&ImageRef) -> bool) {
        let policies = std::mem::take(&mut self.pull_policies);
        for (index, image) in std::mem::take(&mut self.images).into_iter().enumerate() {
            if condition(&image) {
                if let Some(policy) = policies.get(&index) {
                    self.pull_policies.insert(self.images.len(), *policy);
                }
                self.images.push(image);
            }
        }
    }

    /// Returns the specs of the tasks for this workload: one for the images with the policies of
    /// their tags, and one for each other policy. Empty without images.
    #[must_use]
    pub fn task_specs(&self) -> Vec<PrewarmTaskSpec> {
        let mut groups: BTreeMap<Option<PullPolicy>, Vec<String>> = BTreeMap::new();
        for (image, policy) in self.images_with_overrides() {
            groups.entry(policy).or_default().push(image.as_written().to_owned());
        }
        let spec = |(image_pull_policy, images)| PrewarmTaskSpec {
            images,
            image_pull_policy,
            ..self.task_spec()
        };
        groups.into_iter().map(spec).collect()
    }

    /// Returns the spec of a task for this workload, without images and pull policy.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_retained_with_their_pull_policies() {
        let images = ["a:1", "b:1", "c:1", "d:1"].map(|image| image.parse().unwrap());
        let policies =
            [(1, PullPolicy::Always), (2, PullPolicy::IfNotPresent), (3, PullPolicy::Always)];
        let mut workload = Workload {
            images: images.to_vec(),
            pull_policies: policies.into(),
            ..Workload::default()
        };
        workload.retain_images(|image| image.as_written() != "b:1");
        let kept = workload.images_with_overrides();
        let kept: Vec<_> = kept.map(|(image, policy)| (image.as_written(), policy)).collect();
        let (weak, strong) = (Some(PullPolicy::IfNotPresent), Some(PullPolicy::Always));
        assert_eq!(kept, [("a:1", None), ("c:1", weak), ("d:1", strong)]);
    }
}
