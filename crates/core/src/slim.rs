//! Slim objects: API objects with only the fields that are used. Pure: no client, no clock, no I/O.
//!
//! Input: JSON from the API server. Output: values with a few fields. The pod of a worker with ten
//! images has 20 KB of JSON and would take 46 KB as a typed Pod; unlisted fields are skipped during
//! deserialization and never allocated. May be used by every module.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::{Job, JobCondition},
        core::v1::{
            ContainerImage, ContainerState, Node, NodeAddress, NodeCondition, NodeSystemInfo, Pod,
            Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    },
};
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// Used fields of `metadata`; `managedFields` alone are often half of an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMetadata {
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
    let read = SlimMetadata::deserialize(from)?;
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

/// Implements `Resource` for a slim object with the kind of the full one.
macro_rules! slim_resource {
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

/// Slim Node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SlimNode {
    /// Used metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Desired state.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Observed state.
    #[serde(default)]
    pub status: NodeStatus,
}

/// Desired state of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Taints.
    pub taints: Vec<Taint>,
    /// Set if the node is cordoned.
    pub unschedulable: bool,
    /// Networks of the node's pods, in CIDR notation.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// Observed state of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Conditions.
    pub conditions: Vec<NodeCondition>,
    /// Versions, operating system and architecture.
    pub node_info: Option<NodeSystemInfo>,
    /// Resources available to pods.
    pub allocatable: BTreeMap<String, Quantity>,
    /// IP addresses and host name.
    pub addresses: Vec<NodeAddress>,
    /// Images that the kubelet reports, at most 50.
    pub images: Vec<ContainerImage>,
}

/// Slim Pod.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SlimPod {
    /// Used metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Node and images of the pod.
    #[serde(default)]
    pub spec: SlimPodSpec,
    /// Observed state.
    #[serde(default)]
    pub status: PodStatus,
}

/// Node and images of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SlimPodSpec {
    /// Name of the node; empty before the pod is scheduled.
    pub node_name: String,
    /// Containers.
    pub containers: Vec<SlimContainer>,
    /// Volumes.
    pub volumes: Vec<SlimVolume>,
}

/// Name and image of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SlimContainer {
    /// Name of the container.
    pub name: String,
    /// Image reference.
    pub image: String,
}

/// Name and image of a volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SlimVolume {
    /// Name of the volume.
    pub name: String,
    /// Image of an image volume.
    pub image: Option<ImageVolume>,
}

/// Image of an image volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ImageVolume {
    /// Image reference.
    pub reference: String,
}

/// Observed state of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Phase, such as `Running`.
    pub phase: String,
    /// Reason with which the kubelet rejected or evicted the pod.
    pub reason: String,
    /// Message for the reason.
    pub message: String,
    /// Statuses of containers.
    pub container_statuses: Vec<ContainerStatus>,
    /// Statuses of init containers.
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// Observed state of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Name of the container.
    pub name: String,
    /// Image ID of the container runtime.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// State: waiting, running or terminated.
    pub state: ContainerState,
}

/// Slim Job.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SlimJob {
    /// Used metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Pod template.
    #[serde(default)]
    pub spec: SlimJobSpec,
    /// Observed state.
    #[serde(default)]
    pub status: JobStatus,
}

/// Spec of a Job with the node of its pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SlimJobSpec {
    /// Pod template.
    pub template: SlimJobTemplate,
}

/// Pod template of a Job.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SlimJobTemplate {
    /// Pod spec.
    pub spec: SlimJobPodSpec,
}

/// Pod spec of a Job.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SlimJobPodSpec {
    /// Name of the node to which the pods are bound.
    pub node_name: String,
}

/// Observed state of a Job.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Conditions.
    pub conditions: Vec<JobCondition>,
}

/// Slim Pod with its resource requests.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ScheduledPod {
    /// Used metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Node and containers.
    #[serde(default)]
    pub spec: ScheduledPodSpec,
}

/// Node and containers of a pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ScheduledPodSpec {
    /// Name of the node; empty before the pod is scheduled.
    pub node_name: String,
    /// Containers.
    pub containers: Vec<ScheduledContainer>,
}

/// Image and resource requests of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ScheduledContainer {
    /// Image reference.
    pub image: String,
    /// Resources of the container.
    pub resources: ContainerResources,
}

/// Resources of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerResources {
    /// Requests by resource name.
    pub requests: BTreeMap<String, Quantity>,
}

/// Slim `HorizontalPodAutoscaler`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SlimAutoscaler {
    /// Used metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Scaled workload and its maximum.
    #[serde(default)]
    pub spec: AutoscalerSpec,
}

/// Scaled workload and its maximum replicas.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AutoscalerSpec {
    /// Scaled workload.
    pub scale_target_ref: ScaleTarget,
    /// Maximum number of replicas.
    pub max_replicas: u32,
}

/// Reference to the workload of an autoscaler.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ScaleTarget {
    /// Kind of the workload.
    pub kind: String,
    /// Name of the workload.
    pub name: String,
}

slim_resource!(SlimAutoscaler of HorizontalPodAutoscaler);
slim_resource!(SlimNode of Node);
slim_resource!(ScheduledPod of Pod);
slim_resource!(SlimPod of Pod);
slim_resource!(SlimJob of Job);

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn unused_fields_are_skipped() {
        let pod: SlimPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "managedFields": [{"manager": "m"}], "finalizers": ["f"]},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "podIP": "10.0.0.1", "containerStatuses": [
                {"name": "c", "imageID": "i", "image": "x", "ready": true, "restartCount": 0,
                 "state": {"waiting": {"reason": "ErrImagePull", "message": "m"}}}]}
        }))
        .unwrap();
        assert_eq!(
            (pod.name_any().as_str(), pod.managed_fields().len(), pod.finalizers().len()),
            ("p", 0, 0)
        );
        assert_eq!(pod.status.container_statuses[0].image_id, "i");
        assert_eq!(
            pod.status.container_statuses[0].state.waiting.as_ref().unwrap().reason.as_deref(),
            Some("ErrImagePull")
        );
    }

    #[test]
    fn object_without_status_is_accepted() {
        let node: SlimNode =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {}})).unwrap();
        assert!(node.status.conditions.is_empty());
        assert_eq!(
            (SlimJob::url_path(&(), Some("ns")), SlimPod::plural(&())),
            ("/apis/batch/v1/namespaces/ns/jobs".into(), "pods".into())
        );
    }
}
