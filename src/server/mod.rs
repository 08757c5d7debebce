//! Listeners, TLS, certificates, webhook registration and health endpoints.
//!
//! Inputs: routers and settings. Outputs: responses on sockets, a Secret with the CA, and a
//! `ValidatingWebhookConfiguration`. The module does not depend on images or tasks; it may use
//! `webhook::registration`.

pub(crate) mod authority;
pub(crate) mod budget;
pub(crate) mod ca_store;
pub(crate) mod certificates;
pub(crate) mod client_certs;
pub(crate) mod file_limits;
pub(crate) mod health;
pub(crate) mod listener;
pub(crate) mod metrics;
pub(crate) mod overlap;
pub(crate) mod registration;
pub(crate) mod rotator;
pub(crate) mod settings;
