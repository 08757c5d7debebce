//! Custom resource `PrewarmPlan`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::IgnoredNode;

/// Nodes selected for a task, in the order of its batches. Written once, before the first worker is
/// created.
///
/// Separate from the task, so that the task's status stays small with thousands of nodes.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "prewarm.io",
    version = "v1alpha1",
    kind = "PrewarmPlan",
    plural = "prewarmplans",
    singular = "prewarmplan",
    namespaced,
    derive = "PartialEq",
    doc = "Nodes selected for a PrewarmTask; created and deleted with it."
)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmPlanSpec {
    /// Names of the selected nodes.
    pub nodes: Vec<String>,
    /// Number of nodes worked on at the same time: `batchSize` as a number of these nodes, or less
    /// where `--breaker-batch-size` limits it.
    #[serde(default)]
    pub at_once: u32,
    /// Explanation where `atOnce` is less than `batchSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
    /// Facts about nodes or images that the node checks could not determine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
    /// Nodes that matched and were excluded, at most 100; `ignoredCount` counts all of them.
    #[serde(default)]
    pub ignored: Vec<IgnoredNode>,
    /// Number of excluded nodes.
    #[serde(default)]
    pub ignored_count: u32,
}
