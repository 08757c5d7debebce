//! Connection of the [fleet simulator](prewarmer_fleet) with an API server.
//!
//! ```text
//!   API server ──watch──> pods ──Input──> Fleet ──Output──> writes ──PATCH, POST, DELETE──> API server
//! ```
//!
//! What is decided about an object is in functions of values: which inputs follow from an event of
//! a watch ([`connect::pods`]), which request follows from a report ([`connect::writes`]), and what
//! a node object looks like ([`connect::nodes`]). [`connect::run`] has the clients and the clock.
//!
//! Queues, attempts and waiting times are bounded ([`connect::requests`], [`connect::writer`]). What
//! cannot be read or written is one failed object: it is counted, and the run goes on.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod bench;
pub mod connect;
pub mod trace;
