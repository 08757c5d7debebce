//! Report of an audit, and its form as JSON (docs/audit.md). Fields are added, but neither renamed nor
//! removed, while `formatVersion` stays the same.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Version of the report's form.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Duration, which is a number of seconds with three decimals as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(u64);

impl Seconds {
    /// Creates a duration from milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Returns the milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(Duration::from_millis(self.0).as_secs_f64())
    }
}

/// Waits of containers for images, and the part that would have been spared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    /// Version of this form.
    pub format_version: u32,
    /// Only namespace that was read; none for all namespaces.
    pub namespace: Option<String>,
    /// Time of the first start, in RFC 3339; none without starts.
    pub first_start: Option<String>,
    /// Time of the last start.
    pub last_start: Option<String>,
    /// Number of nodes of the cluster.
    pub nodes: NodeCount,
    /// Number of starts of containers.
    pub starts: u64,
    /// Number of starts whose image was present.
    pub warm_starts: u64,
    /// Number of starts whose image was pulled.
    pub pulls: u64,
    /// Sum of the waits for pulls.
    pub waited_seconds: Seconds,
    /// Part of the waits that Prewarmer would have spared.
    pub spared_seconds: Seconds,
    /// Rest of the waits, by reason.
    pub not_spared_seconds: NotSpared,
    /// Sum of the sizes of the pulled images, where known. Layers that a node had already are part of
    /// it.
    pub image_bytes: u64,
    /// Workloads, longest total wait first.
    pub workloads: Vec<WorkloadRow>,
    /// Number of workloads beyond the limit.
    pub omitted_workloads: usize,
    /// Pulled images, longest total wait first.
    pub images: Vec<ImageRow>,
    /// Number of images beyond the limit.
    pub omitted_images: usize,
    /// Sentences about what was not read or not used.
    pub notes: Vec<String>,
    /// Sentences about the simulation.
    pub assumptions: Vec<String>,
    /// Sentence that says what to do.
    pub advice: String,
}

/// Number of nodes, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCount {
    /// Number of nodes.
    pub count: u32,
    /// False where nodes cannot be listed, and only those are counted that events name.
    pub listed: bool,
}

/// Waits that would not have been spared, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotSpared {
    /// The container waited before a task for its image could have ended.
    pub early: Seconds,
    /// The node had the image in the record before.
    pub repeated: Seconds,
    /// The node was created after the begin of the task, or is deleted.
    pub new_node: Seconds,
    /// Pods and Jobs that start once.
    pub one_shot: Seconds,
    /// System namespaces, and kinds that need a setting.
    pub not_warmed: Seconds,
    /// Pods that are deleted, and whose workload is not known.
    pub deleted: Seconds,
    /// Rest of spared pulls: check of a moving tag, and nodes that a task does not select.
    pub remainder: Seconds,
}

/// Waits of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRow {
    /// Namespace.
    pub namespace: String,
    /// Kind, such as `Deployment`; `Deleted` where only the name of a deleted pod is known.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Number of starts of containers.
    pub starts: u64,
    /// Number of starts whose image was present.
    pub warm_starts: u64,
    /// Number of starts whose image was pulled.
    pub pulls: u64,
    /// Sum of the waits.
    pub waited_seconds: Seconds,
    /// Median of the waits for pulls (nearest rank).
    pub p50_seconds: Seconds,
    /// 95th percentile of the waits for pulls (nearest rank).
    pub p95_seconds: Seconds,
    /// Longest wait.
    pub longest_seconds: Seconds,
    /// Part of the waits that would have been spared.
    pub spared_seconds: Seconds,
    /// Sum of the sizes of the pulled images, where known.
    pub image_bytes: u64,
}

/// Waits for one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRow {
    /// Normalized image reference.
    pub image: String,
    /// Number of pulls.
    pub pulls: u64,
    /// Sum of the waits.
    pub waited_seconds: Seconds,
    /// Longest wait.
    pub longest_seconds: Seconds,
    /// Part of the waits that would have been spared.
    pub spared_seconds: Seconds,
    /// Largest stated size; none where no message states it.
    pub size_bytes: Option<u64>,
}
