//! Connection of a fleet with an API server.

pub mod nodes;
pub mod pods;
pub mod run;
pub mod writer;
pub mod writes;
