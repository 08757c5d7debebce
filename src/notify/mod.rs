//! The end of a task, told to whom its spec names.
//!
//! In: ended tasks, as the catalog knows them. Out: a POST to each address of
//! `spec.notify`, and in the task's status how far that is: so a restart
//! forgets nothing, and tells at most the last thing twice. Runs on the leader
//! only. May call `catalog`, `egress` and `task`.

mod address;
mod message;
mod post;
mod run;
mod slots;

pub use self::{
    address::Guard,
    message::{Message, message},
    post::{Failure, Post, Poster, SIGNATURE_HEADER},
    run::run,
};
