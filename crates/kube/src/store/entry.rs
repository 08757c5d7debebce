//! Entry of a task in the store, in the form that readers need.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use prewarmer_core::{
    schedule::{ScheduleExecution, execution_of},
    task::{PrewarmTask, Status},
};

use super::{
    detail::TaskDetail,
    texts::{TaskRenderer, TaskTexts},
};

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// Creates a key from a namespace and a name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Returns a task's key.
    #[must_use]
    pub fn from_task(task: &PrewarmTask) -> Self {
        Self::new(&task.namespace().unwrap_or_default(), &task.name_any())
    }
}

/// Entry of a task.
#[derive(Debug)]
pub struct TaskEntry {
    /// Namespace and name of the task.
    pub key: NamespacedName,
    /// UID of the task.
    pub uid: Box<str>,
    /// Creation time; the Unix epoch when it is missing.
    pub created: Timestamp,
    /// Status of the task.
    pub status: Status,
    /// Resource version of the task.
    pub version: Box<str>,
    texts: TaskTexts,
    /// Name and images in lower case, for the search.
    search_text: Box<str>,
    /// Execution of a schedule; `None` when no schedule created the task.
    pub execution: Option<Box<ScheduleExecution>>,
    /// Complete task, when it has ended and a notification is pending.
    pub pending_notification: Option<Arc<PrewarmTask>>,
}

impl TaskEntry {
    /// Reports whether the task's name or one of its images contains a text, which must be in lower
    /// case.
    pub(super) fn matches_search(&self, text: &str) -> bool {
        self.search_text.contains(text)
    }

    /// Returns the JSON of the task.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.texts.json()
    }

    /// Returns the state that the JSON leaves out.
    #[must_use]
    pub fn detail(&self) -> Cow<'_, TaskDetail> {
        self.texts.detail()
    }

    /// Creates a task's entry.
    pub(super) fn from_task(task: &PrewarmTask, renderer: &TaskRenderer) -> Self {
        // Separated by line breaks, which neither names nor images contain.
        let searched = std::iter::once(task.name_any())
            .chain(task.spec.images.iter().cloned())
            .collect::<Vec<_>>()
            .join("\n");
        Self {
            key: NamespacedName::from_task(task),
            search_text: searched.to_lowercase().into(),
            uid: task.uid().unwrap_or_default().into(),
            created: task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            status: task.phase().into(),
            version: task.resource_version().unwrap_or_default().into(),
            texts: renderer.render(task),
            execution: execution_of(task).map(Box::new),
            pending_notification: (task.phase().is_terminal() && task.has_pending_notifications())
                .then(|| Arc::new(task.clone())),
        }
    }
}

/// Current state of a watched task; `None` after it was deleted.
pub type TaskUpdate = Option<Arc<TaskEntry>>;

/// Reports whether a resource version is at least as new as another. Resource versions are
/// increasing numbers (documented since Kubernetes 1.35; etcd's always were). When one of them is
/// not a number, the version received last counts as newer.
pub(super) fn is_at_least_as_new(version: &str, known: &str) -> bool {
    match (version.parse::<u64>(), known.parse::<u64>()) {
        (Ok(version), Ok(known)) => version >= known,
        _ => true,
    }
}
