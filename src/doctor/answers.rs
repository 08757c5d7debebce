//! What the API server said. *Pure.*

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::node::Facts;

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen<T> {
    /// It is there.
    Is(T),
    /// It is not.
    Absent,
    /// Whoever asks may not know.
    Forbidden,
    /// There was no answer.
    Failed(String),
}

impl<T> Seen<T> {
    pub(super) fn of(result: kube::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Is(value),
            Err(kube::Error::Api(status)) if status.code == 404 => Self::Absent,
            Err(kube::Error::Api(status)) if status.code == 403 => Self::Forbidden,
            Err(error) => Self::Failed(error.to_string()),
        }
    }

    pub(super) fn is(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn map<U>(self, to: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Is(value) => Seen::Is(to(value)),
            Self::Absent => Seen::Absent,
            Self::Forbidden => Seen::Forbidden,
            Self::Failed(error) => Seen::Failed(error),
        }
    }
}

/// The API server itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Such as 1.36.
    pub(super) version: (u32, u32),
    pub(super) text: String,
    /// Its clock, and ours at the same moment.
    pub(super) clocks: Option<(Timestamp, Timestamp)>,
}

/// The server's Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Deployed {
    pub(super) wanted: i32,
    pub(super) ready: i32,
    pub(super) image: String,
}

/// The Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lead {
    pub(super) holder: String,
    pub(super) renewed: Option<Timestamp>,
}

/// The webhook's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registered {
    /// Whether each webhook has a CA.
    pub(super) trusted: bool,
    pub(super) webhooks: usize,
}

/// What became of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rehearsal {
    /// With the warnings that came along.
    Accepted(Vec<String>),
    Refused(String),
}

/// Objects with the labels of workers that others made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Foreign {
    pub(super) number: usize,
    /// The first of them, and what is wrong with each.
    pub(super) named: Vec<String>,
}

/// All answers. What was not asked is absent.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) now: Timestamp,
    pub(super) server: Seen<Server>,
    pub(super) nodes: Seen<Vec<Facts>>,
    /// Definitions by name.
    pub(super) definitions: BTreeMap<String, Seen<Value>>,
    /// What whoever asks may do: a verb and a resource.
    pub(super) own_rights: Vec<(String, Seen<bool>)>,
    pub(super) server_rights: Vec<(String, Seen<bool>)>,
    pub(super) deployment: Seen<Deployed>,
    /// The controller's, where it has one of its own.
    pub(super) controller: Seen<Deployed>,
    pub(super) lead: Seen<Lead>,
    pub(super) registered: Seen<Registered>,
    pub(super) ready: Seen<Value>,
    /// Policies of the fence that are there, and whether they are bound.
    pub(super) fence: Seen<usize>,
    /// Policies that reserve the labels of workers, that are there and bound.
    pub(super) reserved: Seen<usize>,
    /// Objects with the labels of workers that others made.
    pub(super) foreign: Seen<Foreign>,
    /// Image pull secrets of the account of workers in the installation's namespace.
    pub(super) worker_secrets: Seen<Vec<String>>,
    /// A workload with a mistake in an annotation, of which the webhook would warn.
    pub(super) review: Seen<Rehearsal>,
    /// A worker in each namespace.
    pub(super) workers: Vec<(String, Seen<Rehearsal>)>,
    pub(super) failures: Seen<BTreeMap<String, u32>>,
}
