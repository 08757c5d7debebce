//! Used fields of pod templates and pod specs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::Deserialize;

use super::{
    super::{definition::PullCredentials, pull_policy::DeclaredPolicy},
    fields::{MAX_ITEMS, affinity, lenient, list, pull_policy, strings},
    metadata::MetadataView,
};

/// Pod template.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(in crate::workload) struct TemplateView {
    #[serde(deserialize_with = "lenient")]
    pub(in crate::workload) metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    pub(in crate::workload) spec: PodSpecView,
    /// Number of pods created from it: the product of every `replicas` and `parallelism` on the
    /// path to it.
    #[serde(skip)]
    pub(in crate::workload) replicas: u32,
}

/// Used fields of a pod spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::workload) struct PodSpecView {
    #[serde(deserialize_with = "list")]
    containers: Vec<ContainerView>,
    #[serde(deserialize_with = "list")]
    init_containers: Vec<ContainerView>,
    #[serde(deserialize_with = "list")]
    ephemeral_containers: Vec<ContainerView>,
    #[serde(deserialize_with = "list")]
    volumes: Vec<VolumeView>,
    #[serde(deserialize_with = "strings")]
    pub(in crate::workload) node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient")]
    affinity: AffinityView,
    #[serde(deserialize_with = "list")]
    pub(in crate::workload) tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "lenient")]
    pub(in crate::workload) node_name: String,
    #[serde(deserialize_with = "lenient")]
    pub(in crate::workload) runtime_class_name: String,
    #[serde(deserialize_with = "lenient")]
    os: NameView,
    #[serde(deserialize_with = "list")]
    image_pull_secrets: Vec<NameView>,
    #[serde(deserialize_with = "lenient")]
    service_account_name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerView {
    #[serde(deserialize_with = "lenient")]
    name: String,
    #[serde(deserialize_with = "lenient")]
    image: String,
    #[serde(deserialize_with = "pull_policy")]
    image_pull_policy: DeclaredPolicy,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct VolumeView {
    #[serde(deserialize_with = "lenient")]
    image: ImageVolumeView,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ImageVolumeView {
    #[serde(deserialize_with = "lenient")]
    reference: String,
    #[serde(deserialize_with = "pull_policy")]
    pull_policy: DeclaredPolicy,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct NameView {
    #[serde(deserialize_with = "lenient")]
    name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityView {
    #[serde(deserialize_with = "lenient")]
    node_affinity: NodeAffinityView,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinityView {
    #[serde(deserialize_with = "affinity")]
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl PodSpecView {
    /// Iterates over all images, without those of the `excluded` containers, each with the pull
    /// policy of its container or volume.
    pub(in crate::workload) fn images<'a>(
        &'a self,
        excluded: &'a [String],
    ) -> impl Iterator<Item = (&'a str, DeclaredPolicy)> {
        let containers =
            self.init_containers.iter().chain(&self.containers).chain(&self.ephemeral_containers);
        let volumes = self.volumes.iter().map(|volume| &volume.image);
        let volumes = volumes.map(|image| (image.reference.as_str(), image.pull_policy));
        containers
            .filter(|container| !excluded.contains(&container.name))
            .map(|container| (container.image.as_str(), container.image_pull_policy))
            .chain(volumes)
            .filter(|(image, _)| !image.is_empty())
    }

    /// Reports whether items were skipped because of a limit.
    pub(super) fn is_truncated(&self) -> bool {
        let containers = [&self.init_containers, &self.containers, &self.ephemeral_containers];
        self.volumes.len() > MAX_ITEMS || containers.iter().any(|list| list.len() > MAX_ITEMS)
    }

    /// Iterates over the names of containers and their images.
    pub(in crate::workload) fn images_by_container(&self) -> impl Iterator<Item = (&str, &str)> {
        let containers = self.init_containers.iter().chain(&self.containers);
        containers.map(|container| (container.name.as_str(), container.image.as_str()))
    }

    pub(in crate::workload) fn required_affinity(&self) -> Option<NodeSelector> {
        self.affinity.node_affinity.required_during_scheduling_ignored_during_execution.clone()
    }

    pub(in crate::workload) fn credentials(&self) -> PullCredentials {
        let account = &self.service_account_name;
        let secrets = self.image_pull_secrets.iter().filter(|secret| !secret.name.is_empty());
        PullCredentials {
            image_pull_secrets: secrets.map(|secret| secret.name.clone()).collect(),
            service_account_name: (!account.is_empty()).then(|| account.clone()),
        }
    }

    /// Reports whether the pods run on Windows nodes, which are not supported.
    pub(in crate::workload) fn is_windows(&self) -> bool {
        let selected = ["kubernetes.io/os", "beta.kubernetes.io/os"]
            .map(|label| self.node_selector.get(label));
        self.os.name == "windows" || selected.into_iter().flatten().any(|os| os == "windows")
    }
}
