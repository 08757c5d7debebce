//! Operations on tasks, for the REST handlers and the pages.
//!
//! Input: the caller and typed values. Output: changed objects, or the error of the API. An operation
//! checks the permissions that it needs, unless its documentation says that they are checked before.

pub(in crate::api) mod tasks;
