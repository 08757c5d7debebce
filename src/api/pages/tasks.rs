//! Operations on tasks, for the pages.

use std::sync::Arc;

use prewarmer_core::task::{PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec};
use prewarmer_kube::store::{StatusCounts, TaskEntry};
use serde_json::Value;
use tokio::sync::watch;

use super::{ApiError, Caller, Detail, NamespaceScope, PagesApi, TaskSelection, TaskView};
use crate::{
    api::{
        creation::authorize_form, idempotency::check_key, permissions::CREATE_TASK, request,
        service::tasks,
    },
    pod_start::OutcomeSums,
};

/// Page of a list of tasks.
pub struct FoundTasks {
    /// Tasks, newest first.
    pub tasks: Vec<TaskView>,
    /// Number of matching tasks in all pages.
    pub total: usize,
}

impl PagesApi {
    /// Returns a page of the tasks in these namespaces, newest first. The permission `LIST_TASKS`
    /// is checked before, by [`PagesApi::visible_namespaces`].
    #[must_use]
    pub fn list_tasks(&self, visible: &NamespaceScope, selection: TaskSelection<'_>) -> FoundTasks {
        let found = tasks::list(&self.api, visible, selection);
        let views = found.tasks.iter().filter_map(|json| serde_json::from_slice(json).ok());
        FoundTasks { tasks: views.collect(), total: found.total }
    }

    /// Returns the number of tasks in these namespaces, by status. The permission `LIST_TASKS` is
    /// checked before, by [`PagesApi::visible_namespaces`].
    #[must_use]
    pub fn count_tasks(&self, visible: &NamespaceScope) -> StatusCounts {
        self.api.catalog.counts(&|name| visible.contains(name))
    }

    /// Returns the task of this name, if the caller may read it.
    pub async fn get_task(
        &self,
        caller: &Caller,
        namespace: &str,
        id: &str,
    ) -> Result<Arc<TaskEntry>, ApiError> {
        Ok(tasks::get(&self.api, caller, id, Some(namespace)).await?)
    }

    /// Returns the plan of a task that the caller may read; `None` before the task is planned.
    pub async fn task_plan(
        &self,
        entry: &TaskEntry,
    ) -> Result<Option<Arc<PrewarmPlanSpec>>, ApiError> {
        self.api.plans.get(&self.api, entry).await
    }

    /// Parses the body of the call that creates a task. The error has every invalid field.
    pub fn parse_task(&self, body: Value) -> Result<PrewarmTaskSpec, Vec<Detail>> {
        request::parse(body, &self.api.guard).map(|wanted| wanted.spec)
    }

    /// Creates a task from the body that a form yields. With the key of an earlier call, returns
    /// the task of that call.
    pub async fn create_task(
        &self,
        caller: &Caller,
        key: &str,
        mut body: Value,
    ) -> Result<PrewarmTask, ApiError> {
        let key = check_key(key)?;
        let namespace = authorize_form(&self.api, caller, CREATE_TASK, &mut body).await?;
        let spec = self.parse_task(body).map_err(ApiError::invalid_fields)?;
        Ok(tasks::create(&self.api, caller, &namespace, spec, Some(key)).await?.task)
    }

    /// Cancels a task that the caller may read. Error when it has ended.
    pub async fn cancel_task(&self, caller: &Caller, entry: &TaskEntry) -> Result<(), ApiError> {
        Ok(tasks::cancel(&self.api, caller, entry).await?)
    }

    /// Creates a task with the same spec for the nodes that an ended task, which the caller may
    /// read, did not warm. With the key of an earlier call, returns the task of that call.
    pub async fn retry_task(
        &self,
        caller: &Caller,
        entry: &TaskEntry,
        key: Option<&str>,
    ) -> Result<PrewarmTask, ApiError> {
        Ok(tasks::retry(&self.api, caller, entry, key).await?.task)
    }

    /// Returns a counter that increases with every change of a task.
    #[must_use]
    pub fn task_changes(&self) -> watch::Receiver<u64> {
        self.api.catalog.changes()
    }

    /// Returns the totals of pod starts in all watched namespaces.
    #[must_use]
    pub fn pod_starts(&self) -> OutcomeSums {
        self.api.totals.get()
    }
}
