//! One task, as readers need it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Status, TaskView};
use crate::{
    schedule::{Outcome, RunFacts, made_by},
    task::{Phase, PrewarmTask},
};

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of two texts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a task.
    #[must_use]
    pub fn of(task: &PrewarmTask) -> Self {
        Self::new(&task.namespace().unwrap_or_default(), &task.name_any())
    }
}

/// A run of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The schedule's UID.
    pub schedule: String,
    /// The run.
    pub facts: RunFacts,
}

/// A task.
#[derive(Debug)]
pub struct Entry {
    /// Namespace and name.
    pub key: Key,
    /// UID.
    pub uid: Box<str>,
    /// When it was created.
    pub created: Timestamp,
    /// Where it stands.
    pub status: Status,
    /// Its resource version.
    pub version: Box<str>,
    /// The JSON of [`TaskView`].
    pub json: Bytes,
    /// The run that it is, if a schedule has made it.
    pub run: Option<Box<Run>>,
    /// The whole task, if its end is to be told.
    pub to_tell: Option<Arc<PrewarmTask>>,
}

impl Entry {
    /// A task as it is.
    #[must_use]
    pub fn of(task: &PrewarmTask) -> Self {
        let view = TaskView::of(task);
        let status = view.status;
        // A view is text, numbers and lists of them: there is nothing in it that JSON could not say.
        // A boxed slice has no room to spare, of which there would be as much again.
        let json = serde_json::to_vec(&view).unwrap_or_default().into_boxed_slice().into();
        Self {
            key: Key::of(task),
            uid: task.uid().unwrap_or_default().into(),
            created: task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            status,
            version: task.resource_version().unwrap_or_default().into(),
            json,
            run: made_by(task).map(|(schedule, made)| Box::new(Run { schedule, facts: facts(task, made) })),
            to_tell: (task.phase().is_terminal() && task.has_untold_end()).then(|| Arc::new(task.clone())),
        }
    }
}

fn facts(task: &PrewarmTask, made: crate::schedule::Made) -> RunFacts {
    let status = task.status.clone().unwrap_or_default();
    let outcome = match status.phase {
        Phase::Completed => Outcome::Completed,
        Phase::Failed => Outcome::Failed,
        Phase::Cancelled => Outcome::Cancelled,
        _ => Outcome::Open,
    };
    let why = status.conditions.iter().find(|one| one.type_ == "Failed" && one.status == "True");
    RunFacts {
        task: task.name_any(),
        made,
        created: task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        outcome,
        cancelling: task.spec.cancel,
        started: status.start_time,
        ended: status.completion_time,
        message: why.map(|one| one.message.clone()),
    }
}

/// Whether a resource version is not older than another. They are numbers that grow (Kubernetes 1.35 says so; etcd's always
/// did); of something else, whatever came last is newer.
pub(super) fn is_newer(version: &str, known: &str) -> bool {
    match (version.parse::<u64>(), known.parse::<u64>()) {
        (Ok(version), Ok(known)) => version >= known,
        _ => true,
    }
}
