//! Permissions that the operations of the REST API and the pages need.

use super::auth::Permission;

const TASKS: &str = "prewarmtasks";
const SCHEDULES: &str = "prewarmschedules";

pub(super) const GET_TASK: Permission = Permission { verb: "get", resource: TASKS };
/// Permission to list tasks.
pub const LIST_TASKS: Permission = Permission { verb: "list", resource: TASKS };
pub(super) const WATCH_TASK: Permission = Permission { verb: "watch", resource: TASKS };
/// Permission to create tasks, also by a schedule's trigger.
pub const CREATE_TASK: Permission = Permission { verb: "create", resource: TASKS };
/// Permission to cancel tasks.
pub const CANCEL_TASK: Permission = Permission { verb: "patch", resource: TASKS };

pub(super) const GET_SCHEDULE: Permission = Permission { verb: "get", resource: SCHEDULES };
/// Permission to list schedules.
pub const LIST_SCHEDULES: Permission = Permission { verb: "list", resource: SCHEDULES };
/// Permission to create schedules.
pub const CREATE_SCHEDULE: Permission = Permission { verb: "create", resource: SCHEDULES };
/// Permission to change, enable and disable schedules.
pub const UPDATE_SCHEDULE: Permission = Permission { verb: "update", resource: SCHEDULES };
/// Permission to delete schedules.
pub const DELETE_SCHEDULE: Permission = Permission { verb: "delete", resource: SCHEDULES };

pub(super) const LIST_NODES: Permission = Permission { verb: "list", resource: "nodes" };
