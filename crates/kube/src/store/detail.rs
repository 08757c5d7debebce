//! State of a task that only the pages show.

use prewarmer_core::{
    count_values,
    task::{BatchPolicy, Condition, PrewarmTask},
};
use serde::{Deserialize, Serialize};

/// State of a task that the JSON leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl TaskDetail {
    pub(super) fn from_task(task: &PrewarmTask) -> Self {
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
