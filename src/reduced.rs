//! Objects as watches deliver them, without what nobody here reads. *Pure.*
//!
//! In: JSON of the API server. Out: values with a few fields. A worker's pod of
//! ten images comes as 20 KB of JSON and would be 46 KB as a typed Pod; what is
//! not named here is skipped while it is read, and never allocated. May be used
//! by every room.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::{Job, JobCondition},
        core::v1::{ContainerImage, ContainerState, Node, NodeAddress, NodeCondition, NodeSystemInfo, Pod, Taint},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    },
};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// The fields of `metadata` that are read; `managedFields` alone is often half of an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    owner_references: Option<Vec<OwnerReference>>,
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let read = Metadata::deserialize(from)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        labels: read.labels,
        annotations: read.annotations,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        owner_references: read.owner_references,
        ..ObjectMeta::default()
    })
}

/// What a reduced object has in common with the whole one.
macro_rules! reduced {
    ($name:ident of $whole:ty) => {
        impl Resource for $name {
            type DynamicType = ();
            type Scope = <$whole as Resource>::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                <$whole as Resource>::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                <$whole as Resource>::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                <$whole as Resource>::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                <$whole as Resource>::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// A Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ReducedNode {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// What is wanted of it.
    #[serde(default)]
    pub spec: NodeSpec,
    /// How it is.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What is wanted of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// The networks of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// How a Node is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its conditions.
    pub conditions: Vec<NodeCondition>,
    /// Its programs and platform.
    pub node_info: Option<NodeSystemInfo>,
    /// What pods may use of it.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Where it is reached.
    pub addresses: Vec<NodeAddress>,
    /// The images that the kubelet reports, 50 at most.
    pub images: Vec<ContainerImage>,
}

/// A pod.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ReducedPod {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Where it runs, and which images it asks for.
    #[serde(default)]
    pub spec: PulledSpec,
    /// How it is.
    #[serde(default)]
    pub status: PodStatus,
}

/// Where a pod runs, and which images it asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PulledSpec {
    /// Its node; empty before it has one.
    pub node_name: String,
    /// Its containers.
    pub containers: Vec<PulledContainer>,
    /// Its volumes.
    pub volumes: Vec<PulledVolume>,
}

/// A container, by its image.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PulledContainer {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
}

/// A volume, by its image where it is one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PulledVolume {
    /// Its name.
    pub name: String,
    /// The image that is mounted.
    pub image: Option<ImageVolume>,
}

/// The image of a volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ImageVolume {
    /// Its reference.
    pub reference: String,
}

/// How a pod is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Its phase.
    pub phase: String,
    /// The kubelet's reason for refusing or evicting it.
    pub reason: String,
    /// The message beside it.
    pub message: String,
    /// Its containers.
    pub container_statuses: Vec<ContainerStatus>,
    /// Its init containers.
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// How a container is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// The runtime's id of its image.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// Where it stands.
    pub state: ContainerState,
}

/// A Job.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ReducedJob {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// The pods that it makes.
    #[serde(default)]
    pub spec: PinnedJob,
    /// How it is.
    #[serde(default)]
    pub status: JobStatus,
}

/// The pods that a Job makes, as far as they are pinned to a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PinnedJob {
    /// What they are made from.
    pub template: PinnedTemplate,
}

/// What a Job's pods are made from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PinnedTemplate {
    /// Their spec.
    pub spec: PinnedSpec,
}

/// The node of a Job's pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PinnedSpec {
    /// Its name.
    pub node_name: String,
}

/// How a Job is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Its conditions.
    pub conditions: Vec<JobCondition>,
}

/// A pod, as far as it takes room on a node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ScheduledPod {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Where it runs, and what.
    #[serde(default)]
    pub spec: ScheduledSpec,
}

/// Where a pod runs, and what.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ScheduledSpec {
    /// Its node; empty before it has one.
    pub node_name: String,
    /// Its containers.
    pub containers: Vec<RunningContainer>,
}

/// A container, as far as it takes room.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RunningContainer {
    /// Its image.
    pub image: String,
    /// What it asks for.
    pub resources: Resources,
}

/// What a container asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// By resource.
    pub requests: BTreeMap<String, Quantity>,
}

/// A `HorizontalPodAutoscaler`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ReducedAutoscaler {
    /// Its metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// What it scales.
    #[serde(default)]
    pub spec: AutoscalerSpec,
}

/// What an autoscaler scales, and how far.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AutoscalerSpec {
    /// The workload.
    pub scale_target_ref: ScaleTarget,
    /// The most replicas that it gives it.
    pub max_replicas: u32,
}

/// The workload of an autoscaler.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ScaleTarget {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

reduced!(ReducedAutoscaler of HorizontalPodAutoscaler);
reduced!(ReducedNode of Node);
reduced!(ScheduledPod of Pod);
reduced!(ReducedPod of Pod);
reduced!(ReducedJob of Job);

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_read_is_kept() {
        let pod: ReducedPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "managedFields": [{"manager": "m"}], "finalizers": ["f"]},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "podIP": "10.0.0.1", "containerStatuses": [
                {"name": "c", "imageID": "i", "image": "x", "ready": true, "restartCount": 0,
                 "state": {"waiting": {"reason": "ErrImagePull", "message": "m"}}}]}
        }))
        .unwrap();
        assert_eq!((pod.name_any().as_str(), pod.managed_fields().len(), pod.finalizers().len()), ("p", 0, 0));
        assert_eq!(pod.status.container_statuses[0].image_id, "i");
        assert_eq!(
            pod.status.container_statuses[0].state.waiting.as_ref().unwrap().reason.as_deref(),
            Some("ErrImagePull")
        );
    }

    #[test]
    fn an_object_without_status_is_one() {
        let node: ReducedNode = serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {}})).unwrap();
        assert!(node.status.conditions.is_empty());
        assert_eq!(
            (ReducedJob::url_path(&(), Some("ns")), ReducedPod::plural(&())),
            ("/apis/batch/v1/namespaces/ns/jobs".into(), "pods".into())
        );
    }
}
