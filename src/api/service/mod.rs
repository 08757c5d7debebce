//! Operations on tasks, for the REST handlers and the pages.
//!
//! Input: the caller and typed values. Output: changed objects, or the error of the API. Each
//! operation checks the permissions that it needs.

pub(in crate::api) mod tasks;
