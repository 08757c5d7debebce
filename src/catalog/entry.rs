//! One task, as readers need it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Status, TaskView};
use crate::{
    schedule::{Outcome, RunFacts, made_by},
    task::{BatchPolicy, Condition, Phase, PrewarmTask},
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

/// What the API's shape of a task leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// One letter per node of its plan, as in the status.
    pub states: Box<str>,
    /// When each batch had ended, in seconds from the task's start.
    pub batch_ends: Box<[u32]>,
    /// How batches follow one another.
    pub policy: BatchPolicy,
    /// On how many nodes nothing had to be pulled.
    pub already_warm: u32,
    /// How many nodes were chosen and then not tried.
    pub skipped: u32,
    /// How many nodes were left out at the start.
    pub ignored: u32,
    /// Why, of those that the status names, with how many of each.
    pub ignored_reasons: Vec<(String, u32)>,
    /// Why fewer nodes are worked on at once than was asked for, and other remarks.
    pub remarks: Vec<String>,
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
    /// Its name and its images, in lower case: what is searched.
    searched: Box<str>,
    /// The run that it is, if a schedule has made it.
    pub run: Option<Box<Run>>,
    /// What the JSON leaves out.
    pub detail: Detail,
    /// The whole task, if its end is to be told.
    pub to_tell: Option<Arc<PrewarmTask>>,
}

impl Entry {
    /// Whether the text, in lower case, stands in the task's name or in one of its images.
    pub(super) fn mentions(&self, text: &str) -> bool {
        self.searched.contains(text)
    }

    /// The task as the API shows it.
    #[must_use]
    pub fn view(&self) -> Option<TaskView> {
        serde_json::from_slice(&self.json).ok()
    }

    /// A task as it is.
    #[must_use]
    pub fn of(task: &PrewarmTask) -> Self {
        let view = TaskView::of(task);
        let status = view.status;
        // A view is text, numbers and lists of them: there is nothing in it that JSON could not say.
        // A boxed slice has no room to spare, of which there would be as much again.
        let json = serde_json::to_vec(&view).unwrap_or_default().into_boxed_slice().into();
        // Lines: neither a name nor an image has a line break.
        let searched =
            std::iter::once(task.name_any()).chain(view.images.iter().cloned()).collect::<Vec<_>>().join("\n");
        Self {
            key: Key::of(task),
            searched: searched.to_lowercase().into(),
            uid: task.uid().unwrap_or_default().into(),
            created: task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            status,
            version: task.resource_version().unwrap_or_default().into(),
            json,
            detail: Detail::of(task),
            run: made_by(task).map(|(schedule, made)| Box::new(Run { schedule, facts: facts(task, made) })),
            to_tell: (task.phase().is_terminal() && task.has_untold_end()).then(|| Arc::new(task.clone())),
        }
    }
}

impl Detail {
    fn of(task: &PrewarmTask) -> Self {
        let status = task.status.clone().unwrap_or_default();
        let mut reasons: Vec<(String, u32)> = Vec::new();
        for node in status.ignored_nodes {
            match reasons.iter_mut().find(|(reason, _)| *reason == node.reason) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => reasons.push((node.reason, 1)),
            }
        }
        let speaks = |one: &&Condition| {
            matches!(one.type_.as_str(), "Throttled" | "WorkersElsewhere" | "NodesChecked") && !one.message.is_empty()
        };
        Self {
            states: status.node_states.into(),
            batch_ends: status.batch_ends.into(),
            policy: task.spec.batch_policy,
            already_warm: status.already_warm_nodes,
            skipped: status.skipped_nodes,
            ignored: status.ignored_node_count,
            ignored_reasons: reasons,
            remarks: status.conditions.iter().filter(speaks).map(|one| one.message.clone()).collect(),
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
