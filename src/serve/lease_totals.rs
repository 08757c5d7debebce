//! Outcome totals on the Lease: the election writes and reads them there, and a process that takes no
//! part in the election reads them.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{Api, Client, ResourceExt};
use prewarmer_kube::lease::{LeaseAnnotation, LeaseSettings};
use tokio_util::sync::CancellationToken;

use crate::pod_start::{OutcomeTotals, SUMS_ANNOTATION};

/// Interval at which the Lease is read. The overview page shows the totals. A process in the
/// election reads them every 2 s.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// Outcome totals since the installation, which are stored in an annotation of the Lease.
pub(super) struct LeaseTotals {
    /// Totals of all terms.
    pub(super) totals: OutcomeTotals,
}

impl LeaseAnnotation for LeaseTotals {
    const KEY: &'static str = SUMS_ANNOTATION;

    fn observe(&self, value: Option<&str>) {
        self.totals.observe(value);
    }

    fn render(&self, value: Option<&str>) -> String {
        self.totals.annotation(value, Timestamp::now())
    }
}

/// Reads the totals from the Lease until `stop`.
pub(super) async fn follow(
    client: Client,
    lease: LeaseSettings,
    totals: OutcomeTotals,
    stop: CancellationToken,
) {
    let leases = Api::<Lease>::namespaced(client, &lease.namespace);
    loop {
        match leases.get_opt(&lease.name).await {
            Ok(found) => {
                let text =
                    found.as_ref().and_then(|lease| lease.annotations().get(SUMS_ANNOTATION));
                totals.observe(text.map(String::as_str));
            }
            Err(error) => {
                tracing::warn!(%error, "the outcome totals on the Lease could not be read; it is retried");
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(READ_INTERVAL)).await.is_none() {
            return;
        }
    }
}
