//! Listeners, TLS, certificates, webhook registration and health endpoints.
//!
//! Inputs: routers and settings. Outputs: responses on sockets, a Secret with the CA, and a
//! `ValidatingWebhookConfiguration`. The module does not depend on images or tasks; it may call
//! `webhook::registration`.

pub mod authority;
pub mod budget;
pub mod ca_store;
pub mod certificates;
pub mod client_certs;
pub mod file_limits;
pub mod health;
pub mod listener;
pub mod overlap;
pub mod registration;
pub mod rotator;
pub mod settings;
