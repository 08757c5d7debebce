//! The sums of the outcome figures, in a process that does not stand for election: they are on the leader's Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::{
    leader::LeaseSettings,
    starts::{ANNOTATION, Totals},
};

/// How often the Lease is read. The overview shows the sums; a process that stands for election reads them every 2 s.
const LOOK: Duration = Duration::from_secs(15);

/// Reads the sums from the Lease until `stop`.
pub(super) async fn follow(client: Client, lease: LeaseSettings, totals: Totals, stop: CancellationToken) {
    let leases = Api::<Lease>::namespaced(client, &lease.namespace);
    loop {
        match leases.get_opt(&lease.name).await {
            Ok(found) => {
                let text = found.as_ref().and_then(|lease| lease.annotations().get(ANNOTATION));
                totals.heard(text.map(String::as_str));
            }
            Err(error) => tracing::warn!(%error, "the figures on the Lease could not be read"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}
