//! Has the API server call us, and keeps it so.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often drift is repaired; applying what is so already writes nothing.
const REPAIR: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// The field manager of our applies.
const MANAGER: &str = "prewarmer";
/// At shutdown, the removal may take this long.
const REMOVAL: Duration = Duration::from_secs(3);

/// Registers while this replica leads, with the CA that `bundle` tells. `registered` tells when it is done. With `remove`,
/// the configuration goes at the end: by URL, nobody listens there any more.
pub async fn keep(
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
        let mut pause = REPAIR;
        if let Some(ca) = ca.filter(|_| *leads.borrow_and_update()) {
            let configuration = desired(ca.as_bytes());
            let name = configuration.metadata.name.clone().unwrap_or_default();
            let params = PatchParams::apply(MANAGER).force();
            match api.patch(&name, &params, &Patch::Apply(&configuration)).await {
                Ok(_) => {
                    if applied.is_none() {
                        tracing::info!(name, "registered with the API server");
                    }
                    applied = Some(name);
                    registered.send_replace(true);
                }
                Err(error) => {
                    tracing::warn!(name, %error, "the webhook configuration could not be applied; trying again");
                    pause = RETRY;
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
        let params = DeleteParams::default();
        let removal = api.delete(&name, &params);
        if !matches!(tokio::time::timeout(REMOVAL, removal).await, Ok(Ok(_))) {
            tracing::warn!(name, "the webhook configuration stays behind; it fails open");
        }
    }
}
