//! Listeners, TLS, certificates, registration, health.
//!
//! In: routers and settings. Out: bytes on sockets, a Secret with our CA, a
//! `ValidatingWebhookConfiguration`. Knows nothing of images and tasks; may
//! call `webhook::registration`.

pub mod authority;
pub mod budget;
pub mod ca_store;
pub mod certificates;
pub mod clients;
pub mod files;
pub mod health;
pub mod keeper;
pub mod listener;
pub mod overlap;
pub mod registration;
