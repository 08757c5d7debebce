//! Pod starts: whether containers found their images on the node, and the waiting time saved.
//!
//! Input: events of the kubelet with the reason `Pulled`. Output: their classification. May use
//! `worker`.

pub mod classify;
pub mod event;
