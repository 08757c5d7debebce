//! Notifications about ended tasks.
//!
//! In: ended tasks from the store. Out: a POST to each address of `spec.notify`, and the state of
//! each delivery in the task's status, so that a restart loses no delivery and repeats at most the
//! last one. Runs only on the leader. May use `egress` and `task_view`.

mod active_tasks;
mod address;
mod delivery_limits;
mod delivery_state;
mod message;
mod metrics;
mod sender;
mod settings;
mod webhook_client;

pub(crate) use self::{
    address::NotificationPolicy,
    metrics::NotifyMetrics,
    sender::run,
    settings::{NotifyArgs, NotifySettings},
    webhook_client::WebhookClient,
};
