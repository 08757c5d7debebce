//! Deletion of expired keys.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api as KubeApi, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::leases::delete_matching;

/// Minimum time for which a key is stored.
const KEY_TTL: SignedDuration = SignedDuration::from_hours(24);
/// Interval between deletions of expired keys.
const GC_INTERVAL: Duration = Duration::from_secs(1800);

/// Deletes expired keys periodically until `stop` is cancelled. Runs on the leader only.
pub async fn collect_expired_keys(client: Client, namespace: String, stop: CancellationToken) {
    let leases = KubeApi::<Lease>::namespaced(client, &namespace);
    loop {
        let now = Timestamp::now();
        let swept = delete_matching(&leases, |lease| {
            let old =
                lease.creation_timestamp().is_some_and(|time| now.duration_since(time.0) > KEY_TTL);
            old.then(|| lease.name_any())
        });
        match stop.run_until_cancelled(swept).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "failed to list the Leases of Idempotency-Keys");
            }
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(GC_INTERVAL)).await.is_none() {
            return;
        }
    }
}
