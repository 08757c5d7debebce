//! A thin view of objects with a pod template: what we act on, and nothing else.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::{Deserialize, Deserializer};

use super::Credentials;

/// `null` counts as absent, as the API server reads it.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// An object, as far as we look at it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectView {
    /// Group and version.
    #[serde(deserialize_with = "lenient")]
    pub api_version: String,
    /// Kind.
    #[serde(deserialize_with = "lenient")]
    pub kind: String,
    /// Name, labels, annotations, owners.
    #[serde(deserialize_with = "lenient")]
    pub metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    spec: SpecView,
}

/// The part of an object's metadata that we look at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataView {
    #[serde(deserialize_with = "lenient")]
    name: String,
    #[serde(deserialize_with = "lenient")]
    generate_name: String,
    /// Labels.
    #[serde(deserialize_with = "lenient")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "lenient")]
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    #[serde(deserialize_with = "lenient")]
    pub owner_references: Vec<Owner>,
    /// Set on an object that is being deleted.
    pub deletion_timestamp: Option<String>,
}

impl MetadataView {
    /// The name, or the prefix that the API server will make a name from.
    #[must_use]
    pub fn name_or_prefix(&self) -> &str {
        if self.name.is_empty() { &self.generate_name } else { &self.name }
    }

    /// The owner that controls the object.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

/// An owner reference.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Group and version of the owner.
    #[serde(deserialize_with = "lenient")]
    pub api_version: String,
    #[serde(deserialize_with = "lenient")]
    controller: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecView {
    replicas: Option<u32>,
    template: Option<TemplateView>,
    job_template: Option<JobTemplateView>,
    /// A Pod's spec is a pod spec itself.
    #[serde(flatten)]
    pod: PodSpecView,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct JobTemplateView {
    #[serde(deserialize_with = "lenient")]
    spec: JobSpecView,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct JobSpecView {
    template: Option<TemplateView>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct TemplateView {
    #[serde(deserialize_with = "lenient")]
    metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    spec: PodSpecView,
}

/// A pod spec, as far as we look at it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpecView {
    #[serde(deserialize_with = "lenient")]
    containers: Vec<ContainerView>,
    #[serde(deserialize_with = "lenient")]
    init_containers: Vec<ContainerView>,
    #[serde(deserialize_with = "lenient")]
    ephemeral_containers: Vec<ContainerView>,
    #[serde(deserialize_with = "lenient")]
    volumes: Vec<VolumeView>,
    #[serde(deserialize_with = "lenient")]
    pub(super) node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient")]
    affinity: AffinityView,
    #[serde(deserialize_with = "lenient")]
    pub(super) tolerations: Vec<Toleration>,
    pub(super) node_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    image_pull_secrets: Vec<NameView>,
    service_account_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerView {
    #[serde(deserialize_with = "lenient")]
    name: String,
    image: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct VolumeView {
    image: Option<ImageVolumeView>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ImageVolumeView {
    reference: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NameView {
    #[serde(deserialize_with = "lenient")]
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityView {
    #[serde(deserialize_with = "lenient")]
    node_affinity: NodeAffinityView,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinityView {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl PodSpecView {
    /// Every image named, without those of `excluded` containers.
    pub(super) fn images<'a>(&'a self, excluded: &'a [String]) -> impl Iterator<Item = &'a str> {
        let containers = self.init_containers.iter().chain(&self.containers).chain(&self.ephemeral_containers);
        let volumes = self.volumes.iter().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
        containers
            .filter(|container| !excluded.contains(&container.name))
            .filter_map(|container| container.image.as_deref())
            .chain(volumes)
            .filter(|image| !image.is_empty())
    }

    pub(super) fn required_affinity(&self) -> Option<NodeSelector> {
        self.affinity.node_affinity.required_during_scheduling_ignored_during_execution.clone()
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            image_pull_secrets: self.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
            service_account_name: self.service_account_name.clone().filter(|name| !name.is_empty()),
        }
    }
}

/// A pod template, wherever its kind keeps it.
pub(super) struct Template<'a> {
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) spec: &'a PodSpecView,
}

impl ObjectView {
    pub(super) fn template(&self) -> Option<Template<'_>> {
        let inner = match (self.api_version.as_str(), self.kind.as_str()) {
            ("v1", "Pod") => {
                return Some(Template { annotations: &self.metadata.annotations, spec: &self.spec.pod });
            }
            ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("v1", "ReplicationController")
            | ("batch/v1", "Job") => self.spec.template.as_ref(),
            ("batch/v1", "CronJob") => self.spec.job_template.as_ref().and_then(|job| job.spec.template.as_ref()),
            _ => None,
        }?;
        Some(Template { annotations: &inner.metadata.annotations, spec: &inner.spec })
    }

    /// The replicas that the workload asks for; 1 where it does not say.
    pub(super) fn replicas(&self) -> u32 {
        self.spec.replicas.unwrap_or(1)
    }
}
