//! Results of the requests to the API server. Pure: no client, no clock, no I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use prewarmer_core::node::NodeInfo;
use prewarmer_kube::api_error::ApiErrorKind;

/// Result of one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum QueryResult<T> {
    /// The object exists.
    Found(T),
    /// The object does not exist.
    Absent,
    /// The caller lacks the permission.
    Forbidden,
    /// The request failed, with the error.
    Failed(String),
}

impl<T> QueryResult<T> {
    pub(super) fn from_result(result: kube::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Found(value),
            Err(error) => match ApiErrorKind::of(&error) {
                ApiErrorKind::NotFound => Self::Absent,
                kind if kind.is_forbidden() => Self::Forbidden,
                _ => Self::Failed(error.to_string()),
            },
        }
    }

    pub(super) fn found(&self) -> Option<&T> {
        match self {
            Self::Found(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn map<U>(self, to: impl FnOnce(T) -> U) -> QueryResult<U> {
        match self {
            Self::Found(value) => QueryResult::Found(to(value)),
            Self::Absent => QueryResult::Absent,
            Self::Forbidden => QueryResult::Forbidden,
            Self::Failed(error) => QueryResult::Failed(error),
        }
    }
}

/// Version and clock of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiServerInfo {
    /// Major and minor version, such as 1.36.
    pub(super) version: (u32, u32),
    pub(super) text: String,
    /// Time of the API server, and local time at the same moment.
    pub(super) clocks: Option<(Timestamp, Timestamp)>,
}

/// Deployment of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct DeploymentState {
    pub(super) desired: i32,
    pub(super) ready: i32,
    pub(super) image: String,
}

/// Lease of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseHolder {
    pub(super) holder: String,
    pub(super) renewed: Option<Timestamp>,
}

/// Configuration of the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegisteredWebhooks {
    /// True where every webhook has a CA.
    pub(super) trusted: bool,
    pub(super) webhooks: usize,
}

/// Result of a creation by dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DryRunResult {
    /// Accepted, with the warnings of the response.
    Accepted(Vec<String>),
    Refused(String),
}

/// Objects with the labels of workers that fail provenance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ForeignSummary {
    pub(super) count: usize,
    /// First of them, each with the reason.
    pub(super) examples: Vec<String>,
}

/// Results of all requests; absent where no request was made.
#[derive(Debug)]
pub(super) struct ClusterResults {
    pub(super) now: Timestamp,
    pub(super) server: QueryResult<ApiServerInfo>,
    pub(super) nodes: QueryResult<Vec<NodeInfo>>,
    /// Custom resource definitions by name.
    pub(super) definitions: BTreeMap<String, QueryResult<Value>>,
    /// Permissions of the caller: verb and resource.
    pub(super) own_permissions: Vec<(String, QueryResult<bool>)>,
    pub(super) server_permissions: Vec<(String, QueryResult<bool>)>,
    pub(super) deployment: QueryResult<DeploymentState>,
    /// Deployment of the controller, where there is a separate one.
    pub(super) controller: QueryResult<DeploymentState>,
    pub(super) lease: QueryResult<LeaseHolder>,
    pub(super) webhook: QueryResult<RegisteredWebhooks>,
    pub(super) readiness: QueryResult<Value>,
    /// Number of bound policies that restrict the server's account.
    pub(super) fence_policies: QueryResult<usize>,
    /// Number of bound policies that reserve the labels of workers.
    pub(super) reserved_policies: QueryResult<usize>,
    /// Objects with the labels of workers that fail provenance.
    pub(super) foreign: QueryResult<ForeignSummary>,
    /// Image pull secrets of the workers' service account in the installation's namespace.
    pub(super) worker_secrets: QueryResult<Vec<String>>,
    /// Creation of a workload with an invalid annotation, for which the webhook returns a warning.
    pub(super) sample_review: QueryResult<DryRunResult>,
    /// Creation of a worker pod in each namespace.
    pub(super) workers: Vec<(String, QueryResult<DryRunResult>)>,
    pub(super) failures: QueryResult<BTreeMap<String, u32>>,
}

impl ClusterResults {
    /// Creates results without any answer.
    pub(super) fn unanswered(now: Timestamp) -> Self {
        Self {
            now,
            server: QueryResult::Absent,
            nodes: QueryResult::Absent,
            definitions: BTreeMap::new(),
            own_permissions: Vec::new(),
            server_permissions: Vec::new(),
            deployment: QueryResult::Absent,
            controller: QueryResult::Absent,
            lease: QueryResult::Absent,
            webhook: QueryResult::Absent,
            readiness: QueryResult::Absent,
            fence_policies: QueryResult::Absent,
            reserved_policies: QueryResult::Absent,
            foreign: QueryResult::Absent,
            worker_secrets: QueryResult::Absent,
            sample_review: QueryResult::Absent,
            workers: Vec::new(),
            failures: QueryResult::Absent,
        }
    }
}
