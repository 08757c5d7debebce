//! Tasks whose notifications are being sent, and the selection of the next ones.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kube::ResourceExt;
use prewarmer_core::task::PrewarmTask;
use tokio::task::JoinSet;

use super::delivery_limits::{MAX_ACTIVE_TASKS, select_round_robin};

/// Tasks whose notifications are being sent.
#[derive(Default)]
pub(super) struct ActiveTasks {
    task_uids: HashSet<String>,
    namespaces: HashMap<String, usize>,
    last_namespace: String,
    pub(super) tasks: JoinSet<Arc<PrewarmTask>>,
}

impl ActiveTasks {
    /// Reports whether notifications of the task are being sent.
    pub(super) fn contains(&self, task: &PrewarmTask) -> bool {
        task.metadata.uid.as_ref().is_some_and(|uid| self.task_uids.contains(uid))
    }

    /// Selects the tasks to start next, so that no namespace delays another one.
    pub(super) fn select(&self, due: &[Arc<PrewarmTask>]) -> Vec<Arc<PrewarmTask>> {
        let namespaces = due.iter().map(|task| task.namespace().unwrap_or_default());
        let room = MAX_ACTIVE_TASKS.saturating_sub(self.task_uids.len());
        let chosen = select_round_robin(namespaces, &self.namespaces, &self.last_namespace, room);
        chosen.into_iter().filter_map(|index| due.get(index).cloned()).collect()
    }

    pub(super) fn insert(&mut self, task: &PrewarmTask) {
        let namespace = task.namespace().unwrap_or_default();
        let many = self.namespaces.entry(namespace.clone()).or_default();
        *many = many.saturating_add(1);
        self.task_uids.insert(task.uid().unwrap_or_default());
        self.last_namespace = namespace;
    }

    pub(super) fn remove(&mut self, task: &PrewarmTask) {
        self.task_uids.remove(&task.uid().unwrap_or_default());
        let namespace = task.namespace().unwrap_or_default();
        if let Some(many) = self.namespaces.get_mut(&namespace) {
            *many = many.saturating_sub(1);
            if *many == 0 {
                self.namespaces.remove(&namespace);
            }
        }
    }
}
