//! Operations on tasks and schedules, for the REST handlers and the pages.
//!
//! Input: the caller and typed values. Output: objects, or a `ServiceError`. An operation checks
//! the permissions that it needs, unless its documentation says that they are checked before.

mod create_task;
mod error;
mod lookup;
pub(in crate::api) mod schedules;
pub(in crate::api) mod tasks;

pub(in crate::api) use self::{create_task::create_or_get, lookup::visible_namespaces};
