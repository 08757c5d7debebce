//! Commands for people: `kubectl prewarm`, and the commands `audit`, `doctor` and `extract` of
//! `prewarmer`.
//! This crate links no code of the server.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod audit;
pub mod doctor;
pub mod extract;
mod manifest_files;
pub mod plugin;
pub mod scope;
pub mod settings;
pub mod terminal;
