//! Entry of a task in the store, in the form that readers need.

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use prewarmer_core::{
    count_values,
    schedule::{ScheduleExecution, execution_of},
    task::{BatchPolicy, Condition, PrewarmTask, Status},
};

/// Renders a task into the JSON that all readers get.
pub type RenderTask = fn(&PrewarmTask) -> Bytes;

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

/// State of a task that the JSON leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskDetail {
    /// State of each node of the plan, one letter per node, as in `status.nodeStates`.
    pub node_states: Box<str>,
    /// End of each batch, in seconds from the task's start.
    pub batch_ends: Box<[u32]>,
    /// Order of batches.
    pub policy: BatchPolicy,
    /// Number of nodes on which every image was present already.
    pub already_warm: u32,
    /// Number of planned nodes on which no pull was attempted.
    pub skipped: u32,
    /// Number of matching nodes that were excluded from the plan.
    pub ignored: u32,
    /// Reasons of the excluded nodes that the status lists, each with the number of nodes.
    pub ignored_reasons: Vec<(String, usize)>,
    /// Messages of the conditions `Throttled`, `WorkersInFallbackNamespace` and `NodesChecked`.
    pub condition_messages: Vec<String>,
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
    /// JSON of the task, from [`RenderTask`].
    pub json: Bytes,
    /// Name and images in lower case, for the search.
    search_text: Box<str>,
    /// Execution of a schedule; `None` when no schedule created the task.
    pub execution: Option<Box<ScheduleExecution>>,
    /// State that the JSON leaves out.
    pub detail: TaskDetail,
    /// Complete task, when it has ended and a notification is pending.
    pub pending_notification: Option<Arc<PrewarmTask>>,
}

impl TaskEntry {
    /// Reports whether the task's name or one of its images contains a text, which must be in lower
    /// case.
    pub(super) fn matches_search(&self, text: &str) -> bool {
        self.search_text.contains(text)
    }

    /// Creates a task's entry.
    #[must_use]
    pub fn from_task(task: &PrewarmTask, render: RenderTask) -> Self {
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
            json: render(task),
            detail: TaskDetail::from_task(task),
            execution: execution_of(task).map(Box::new),
            pending_notification: (task.phase().is_terminal() && task.has_pending_notifications())
                .then(|| Arc::new(task.clone())),
        }
    }
}

impl TaskDetail {
    fn from_task(task: &PrewarmTask) -> Self {
        let status = task.status.clone().unwrap_or_default();
        let reasons = count_values(status.ignored_nodes.into_iter().map(|node| node.reason));
        let is_relevant = |one: &&Condition| {
            matches!(
                one.type_.as_str(),
                "Throttled" | "WorkersInFallbackNamespace" | "NodesChecked"
            ) && !one.message.is_empty()
        };
        Self {
            node_states: status.node_states.into(),
            batch_ends: status.batch_ends.into(),
            policy: task.spec.batch_policy,
            already_warm: status.already_warm_nodes,
            skipped: status.skipped_nodes,
            ignored: status.ignored_node_count,
            ignored_reasons: reasons,
            condition_messages: status
                .conditions
                .iter()
                .filter(is_relevant)
                .map(|one| one.message.clone())
                .collect(),
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
