//! Registration of the webhook: applies the `ValidatingWebhookConfiguration` and repairs drift
//! while this replica leads.

#[cfg(test)]
mod api_tests;

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Interval at which the configuration is applied again to repair drift. An unchanged apply writes
/// nothing.
const REAPPLY_INTERVAL: Duration = Duration::from_secs(30);
/// Retry interval after a failed apply.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Field manager of server-side apply.
const FIELD_MANAGER: &str = "prewarmer";
/// Time limit of the deletion at shutdown.
const DELETE_TIMEOUT: Duration = Duration::from_secs(3);

/// Applies the configuration while this replica leads, with the CA bundle of `bundle`, and
/// publishes success to `registered`. With `remove`, deletes the configuration at shutdown: a
/// webhook that is registered by URL has no other replica behind it.
pub(crate) async fn run(
    client: Client,
    desired: impl Fn(&[u8]) -> ValidatingWebhookConfiguration,
    mut bundle: watch::Receiver<Option<String>>,
    mut leads: watch::Receiver<bool>,
    registered: watch::Sender<bool>,
    remove: bool,
    stop: CancellationToken,
) {
    let api = Api::<ValidatingWebhookConfiguration>::all(client);
    let mut applied = None;
    while !stop.is_cancelled() {
        let ca = bundle.borrow_and_update().clone();
        let mut pause = REAPPLY_INTERVAL;
        if let Some(ca) = ca.filter(|_| *leads.borrow_and_update()) {
            let configuration = desired(ca.as_bytes());
            let name = configuration.metadata.name.clone().unwrap_or_default();
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patch = Patch::Apply(&configuration);
            let apply = api.patch(&name, &params, &patch);
            let Some(result) = stop.run_until_cancelled(apply).await else {
                // The API server may still execute the request.
                applied = Some(name);
                break;
            };
            match result {
                Ok(_) => {
                    if applied.is_none() {
                        tracing::info!(name, "webhook registered with the API server");
                    }
                    applied = Some(name);
                    registered.send_replace(true);
                }
                Err(error) => {
                    tracing::warn!(name, %error, "the webhook configuration could not be applied; it is retried");
                    pause = RETRY_INTERVAL;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            Ok(()) = bundle.changed() => {}
            Ok(()) = leads.changed() => {}
        }
    }
    if let Some(name) = applied.filter(|_| remove) {
        unregister(&api, &name).await;
    }
}

/// Deletes the configuration. A failure is logged.
async fn unregister(api: &Api<ValidatingWebhookConfiguration>, name: &str) {
    let params = DeleteParams::default();
    let removal = api.delete(name, &params);
    if !matches!(tokio::time::timeout(DELETE_TIMEOUT, removal).await, Ok(Ok(_))) {
        tracing::warn!(
            name,
            "the webhook configuration could not be deleted; its failurePolicy is Ignore, so requests are still admitted"
        );
    }
}
