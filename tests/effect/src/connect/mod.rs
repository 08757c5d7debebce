//! Connection of a fleet with an API server.

pub mod failures;
pub mod nodes;
pub mod pods;
pub mod registration;
pub mod requests;
pub mod run;
mod simulation;
pub mod writer;
pub mod writes;
