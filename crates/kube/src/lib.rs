//! Code for clients of the API server, shared by the server and the kubectl plugin.

pub mod api_error;
pub mod conflict;
pub mod list;
