//! Programs for people with a kubeconfig: `kubectl prewarm`, and the output of tables.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

pub mod plugin;
pub mod terminal;
