//! Registration of the webhook: applies the `ValidatingWebhookConfiguration` and repairs drift
//! while this replica leads.

#[cfg(test)]
mod api_tests;

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use prewarmer_kube::{
    api_contact::ApiContact,
    object_watch::{ObjectWatch, Observation},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Interval at which the configuration is applied again where its changes cannot be watched. An
/// unchanged apply writes nothing. Also the least time between two repairs of changes by other
/// programs, so that two programs that disagree do not write all the time.
const REAPPLY_INTERVAL: Duration = Duration::from_secs(30);
/// Duration of one watch request.
const WATCH_PERIOD: Duration = Duration::from_secs(240);
/// Retry interval after a failed apply.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Field manager of server-side apply.
const FIELD_MANAGER: &str = "prewarmer";
/// Time limit of the deletion at shutdown.
const DELETE_TIMEOUT: Duration = Duration::from_secs(3);

/// Configuration that this replica has applied.
struct Applied {
    name: String,
    /// Resource version that the apply returned.
    version: Option<String>,
    at: Instant,
}

/// Applies the configuration while this replica leads, with the CA bundle of `bundle`, and
/// publishes success to `registered`. A change by another program is repaired. With `remove`,
/// deletes the configuration at shutdown: a webhook that is registered by URL has no other replica
/// behind it.
pub(crate) async fn run(
    (client, contact): (Client, ApiContact),
    desired: impl Fn(&[u8]) -> ValidatingWebhookConfiguration,
    mut bundle: watch::Receiver<Option<String>>,
    mut leads: watch::Receiver<bool>,
    registered: watch::Sender<bool>,
    remove: bool,
    stop: CancellationToken,
) {
    let api = Api::<ValidatingWebhookConfiguration>::all(client);
    let (mut applied, mut watched) = (None::<Applied>, None);
    while !stop.is_cancelled() {
        let ca = bundle.borrow_and_update().clone();
        let ca = ca.filter(|_| *leads.borrow_and_update());
        let mut failed = false;
        if let Some(ca) = &ca {
            let configuration = desired(ca.as_bytes());
            match stop.run_until_cancelled(apply(&api, &configuration)).await {
                Some(Err(())) => failed = true,
                Some(Ok(now)) => {
                    if applied.is_none() {
                        tracing::info!(name = now.name, "webhook registered with the API server");
                    }
                    applied = Some(now);
                    registered.send_replace(true);
                }
                // The API server may still execute the request.
                None => {
                    let name = configuration.name_any();
                    applied = Some(Applied { name, version: None, at: Instant::now() });
                    break;
                }
            }
        }
        let due = async {
            match &applied {
                _ if failed => tokio::time::sleep(RETRY_INTERVAL).await,
                Some(applied) if ca.is_some() => {
                    let watch = watched.get_or_insert_with(|| {
                        ObjectWatch::new(api.clone(), &applied.name, WATCH_PERIOD, contact.clone())
                    });
                    wait_for_change(watch, applied).await;
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = due => {}
            Ok(()) = bundle.changed() => {}
            Ok(()) = leads.changed() => watched = None,
        }
    }
    let applied = applied.map(|applied| applied.name);
    if let Some(name) = applied.filter(|_| remove) {
        unregister(&api, &name).await;
    }
}

/// Applies the configuration. Logs a failure.
async fn apply(
    api: &Api<ValidatingWebhookConfiguration>,
    configuration: &ValidatingWebhookConfiguration,
) -> Result<Applied, ()> {
    let name = configuration.name_any();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch(&name, &params, &Patch::Apply(configuration)).await {
        Ok(object) => Ok(Applied { name, version: object.resource_version(), at: Instant::now() }),
        Err(error) => {
            tracing::warn!(name, %error, "the webhook configuration could not be applied; it is retried");
            Err(())
        }
    }
}

/// Waits until the configuration is to be applied again: after a change by another program, or
/// after [`REAPPLY_INTERVAL`] while no watch is open.
async fn wait_for_change(
    watch: &mut ObjectWatch<ValidatingWebhookConfiguration>,
    applied: &Applied,
) {
    let due = applied.at.checked_add(REAPPLY_INTERVAL).unwrap_or(applied.at);
    loop {
        let seen = tokio::select! {
            seen = watch.next() => seen,
            () = tokio::time::sleep_until(due) => {
                if !watch.is_open() {
                    return;
                }
                watch.next().await
            }
        };
        match seen {
            Ok(Observation::State(object)) => {
                let version = object.and_then(|object| object.resource_version());
                if version != applied.version {
                    return tokio::time::sleep_until(due).await;
                }
            }
            Ok(Observation::Unchanged) => {}
            Err(error) => {
                tracing::debug!(%error, "the webhook configuration could not be watched; it is applied at an interval");
            }
        }
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
