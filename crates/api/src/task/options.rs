//! Options of a task's spec: batches, retries, pulls and workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::image::{ImageRef, LATEST};

/// Upper bound of `retry.limit`.
pub const MAX_RETRIES: u32 = 5;

/// Order in which batches of nodes follow one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BatchPolicy {
    /// The next batch starts when every node of the last one has ended.
    #[default]
    Barrier,
    /// Sliding window of `batchSize` nodes.
    Rolling,
    /// Batches start at one node and double up to `batchSize` while they succeed. A batch with a
    /// failed node is followed by one of the same size.
    Doubling,
}

/// Treatment of a failed node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FailurePolicy {
    /// The node stays failed.
    #[default]
    Skip,
    /// The node is retried in a later batch as `retry` defines, unless the failure is permanent: an
    /// image that does not exist is not requested again.
    Retry,
}

impl FailurePolicy {
    /// Returns the value in the spec.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "Skip",
            Self::Retry => "Retry",
        }
    }
}

/// Growth of the delay between retries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryStrategy {
    /// `delay`, 2 × `delay`, 3 × `delay`.
    #[default]
    Linear,
    /// `delay`, 2 × `delay`, 4 × `delay`.
    Exponential,
}

/// Retries of a task with `failurePolicy: Retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Number of retries of a failed node, 0 to 5. Default: 3.
    #[schemars(range(min = 0, max = 5))]
    #[serde(default = "default_retry_limit")]
    pub limit: u32,
    /// Growth of the delay: `Linear` or `Exponential`. Default: `Linear`.
    #[serde(default)]
    pub strategy: RetryStrategy,
    /// Delay before the first retry, a duration such as `1m`, from `0s` to `24h`. Default: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub delay: Option<String>,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { limit: default_retry_limit(), strategy: RetryStrategy::default(), delay: None }
    }
}

fn default_retry_limit() -> u32 {
    3
}

/// Method that pulls an image on a node.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullMethod {
    /// `ImageVolume` where the node supports it, else `Helper`.
    #[default]
    Auto,
    /// The helper's container mounts the image as a volume. The image is never run.
    ImageVolume,
    /// The image's container runs a copied static helper in place of its own program.
    Helper,
}

/// Condition under which the kubelet contacts the registry.
// In ascending order of strength.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullPolicy {
    /// Only where the image is not present on the node.
    #[default]
    IfNotPresent,
    /// On every pull, so that a tag that has moved is pulled again.
    Always,
}

impl PullPolicy {
    /// Returns the policy of a container that sets none, as Kubernetes defaults it: `Always` for the
    /// tag `latest` and for a reference without tag and digest, otherwise `IfNotPresent`. A digest
    /// always names the same content, so a reference with one is `IfNotPresent`, whatever its tag.
    #[must_use]
    pub fn by_tag(image: &ImageRef) -> Self {
        if image.digest().is_none() && image.tag() == Some(LATEST) {
            Self::Always
        } else {
            Self::IfNotPresent
        }
    }

    /// Returns the policy that applies to an image of a task whose `imagePullPolicy` is `declared`.
    #[must_use]
    pub fn effective(declared: Option<Self>, image: &ImageRef) -> Self {
        declared.filter(|_| image.digest().is_none()).unwrap_or_else(|| Self::by_tag(image))
    }

    /// Returns the value of a container's `imagePullPolicy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
        }
    }
}

/// Kind of the object that pulls on a node.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WorkerKind {
    /// One Job per node.
    #[default]
    Job,
    /// One pod without a Job per node, which needs fewer API writes.
    Pod,
}

/// Name of an object in the task's namespace.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct LocalReference {
    /// Name of the object.
    #[serde(default)]
    pub name: String,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "@sha256:0123456789012345678901234567890123456789012345678901234567890123";

    #[rstest]
    #[case("nginx", PullPolicy::Always)]
    #[case("nginx:latest", PullPolicy::Always)]
    #[case("localhost:5000/nginx", PullPolicy::Always)]
    #[case("registry.example/shop/web:latest", PullPolicy::Always)]
    #[case("nginx:1.27", PullPolicy::IfNotPresent)]
    #[case("nginx:latest-alpine", PullPolicy::IfNotPresent)]
    #[case("localhost:5000/nginx:stable", PullPolicy::IfNotPresent)]
    fn the_tag_decides_as_in_kubernetes(#[case] image: &str, #[case] expected: PullPolicy) {
        let image: ImageRef = image.parse().unwrap();
        assert_eq!(PullPolicy::effective(None, &image), expected);
        for declared in [PullPolicy::IfNotPresent, PullPolicy::Always] {
            assert_eq!(PullPolicy::effective(Some(declared), &image), declared);
        }
    }

    #[rstest]
    fn a_digest_never_moves(
        #[values("nginx", "nginx:latest", "nginx:1.27")] name: &str,
        #[values(None, Some(PullPolicy::IfNotPresent), Some(PullPolicy::Always))] declared: Option<
            PullPolicy,
        >,
    ) {
        let image: ImageRef = format!("{name}{DIGEST}").parse().unwrap();
        assert_eq!(PullPolicy::effective(declared, &image), PullPolicy::IfNotPresent);
    }
}
