//! Operations on schedules, for the pages.

use std::sync::Arc;

use prewarmer_core::schedule::{PrewarmSchedule, PrewarmScheduleSpec};
use serde_json::Value;
use tokio::sync::watch;

use super::{ApiError, Caller, Detail, NamespaceScope, PagesApi, TriggeredExecution};
use crate::api::{
    creation::authorize_form, permissions::CREATE_SCHEDULE, schedule_request, service::schedules,
};

impl PagesApi {
    /// Returns the schedules in these namespaces, sorted by namespace and name. The permission
    /// `LIST_SCHEDULES` is checked before, by [`PagesApi::visible_namespaces`].
    #[must_use]
    pub fn list_schedules(&self, visible: &NamespaceScope) -> Vec<Arc<PrewarmSchedule>> {
        schedules::list(&self.api, visible, None)
    }

    /// Returns the schedules that the caller may list, in `namespace` or in all; `None` when the
    /// caller may list no schedules.
    pub async fn list_permitted_schedules(
        &self,
        caller: &Caller,
        namespace: Option<String>,
    ) -> Result<Option<Vec<Arc<PrewarmSchedule>>>, ApiError> {
        Ok(schedules::list_permitted(&self.api, caller, namespace).await?)
    }

    /// Returns the schedule of this name, if the caller may read it.
    pub async fn get_schedule(
        &self,
        caller: &Caller,
        namespace: &str,
        id: &str,
    ) -> Result<Arc<PrewarmSchedule>, ApiError> {
        Ok(schedules::get(&self.api, caller, id, Some(namespace)).await?)
    }

    /// Parses the body of the call that creates a schedule. The error has every invalid field.
    pub fn parse_schedule(&self, body: Value) -> Result<PrewarmScheduleSpec, Vec<Detail>> {
        schedule_request::parse(body, &self.api.guard).map(|wanted| wanted.spec)
    }

    /// Creates a schedule from the body that a form yields.
    pub async fn create_schedule(
        &self,
        caller: &Caller,
        mut body: Value,
    ) -> Result<PrewarmSchedule, ApiError> {
        let namespace = authorize_form(&self.api, caller, CREATE_SCHEDULE, &mut body).await?;
        let spec = self.parse_schedule(body).map_err(ApiError::invalid_fields)?;
        Ok(schedules::create(&self.api, caller, &namespace, spec).await?)
    }

    /// Deletes a schedule that the caller may read, and the tasks that it created.
    pub async fn delete_schedule(
        &self,
        caller: &Caller,
        known: &PrewarmSchedule,
    ) -> Result<(), ApiError> {
        Ok(schedules::delete(&self.api, caller, known).await?)
    }

    /// Enables or disables a schedule that the caller may read. A running execution continues.
    pub async fn set_schedule_enabled(
        &self,
        caller: &Caller,
        known: &PrewarmSchedule,
        enabled: bool,
    ) -> Result<(), ApiError> {
        schedules::set_enabled(&self.api, caller, known, enabled).await?;
        Ok(())
    }

    /// Triggers an execution of a schedule that the caller may read, enabled or not. Error when
    /// another execution is running and the schedule's `overlapPolicy` permits no other.
    pub async fn trigger_schedule(
        &self,
        caller: &Caller,
        known: &PrewarmSchedule,
    ) -> Result<TriggeredExecution, ApiError> {
        Ok(schedules::trigger(&self.api, caller, known).await?)
    }

    /// Returns a counter that increases with every change of a schedule.
    #[must_use]
    pub fn schedule_changes(&self) -> watch::Receiver<u64> {
        self.api.schedules.changes()
    }
}
