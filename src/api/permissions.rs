//! Permissions that the operations of the REST API and the pages need.

use super::auth::Permission;

const TASKS: &str = "prewarmtasks";
const SCHEDULES: &str = "prewarmschedules";

pub(super) const GET_TASK: Permission = Permission { verb: "get", resource: TASKS };
pub(super) const LIST_TASKS: Permission = Permission { verb: "list", resource: TASKS };
pub(super) const WATCH_TASK: Permission = Permission { verb: "watch", resource: TASKS };
pub(super) const CREATE_TASK: Permission = Permission { verb: "create", resource: TASKS };
pub(super) const CANCEL_TASK: Permission = Permission { verb: "patch", resource: TASKS };

pub(super) const GET_SCHEDULE: Permission = Permission { verb: "get", resource: SCHEDULES };
pub(super) const LIST_SCHEDULES: Permission = Permission { verb: "list", resource: SCHEDULES };
pub(super) const CREATE_SCHEDULE: Permission = Permission { verb: "create", resource: SCHEDULES };
pub(super) const UPDATE_SCHEDULE: Permission = Permission { verb: "update", resource: SCHEDULES };
pub(super) const DELETE_SCHEDULE: Permission = Permission { verb: "delete", resource: SCHEDULES };

pub(super) const LIST_NODES: Permission = Permission { verb: "list", resource: "nodes" };
