//! Outcome totals on the Lease: the election writes and reads them there, and a process that takes no
//! part in the election observes them.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{Api, Client, ResourceExt};
use prewarmer_kube::{
    api_contact::ApiContact,
    lease::{LeaseAnnotation, LeaseSettings},
    object_watch::{ObjectWatch, Observation},
};
use tokio_util::sync::CancellationToken;

use crate::pod_start::{OutcomeTotals, SUMS_ANNOTATION};

/// Duration of one watch request. The overview page shows the totals.
const WATCH_PERIOD: Duration = Duration::from_secs(240);

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

/// Follows the totals on the Lease until `stop`. Each renewal of the leader is an event, which is
/// recorded to `contact`, so that the API server is not probed.
pub(super) async fn follow(
    client: Client,
    lease: LeaseSettings,
    totals: OutcomeTotals,
    contact: ApiContact,
    stop: CancellationToken,
) {
    let leases = Api::<Lease>::namespaced(client, &lease.namespace);
    let mut watch = ObjectWatch::new(leases, &lease.name, WATCH_PERIOD, contact);
    while let Some(seen) = stop.run_until_cancelled(watch.next()).await {
        match seen {
            Ok(Observation::State(lease)) => {
                let text =
                    lease.as_ref().and_then(|lease| lease.annotations().get(SUMS_ANNOTATION));
                totals.observe(text.map(String::as_str));
            }
            Ok(Observation::Unchanged) => {}
            Err(error) => {
                tracing::warn!(%error, "the outcome totals on the Lease could not be read; it is retried");
            }
        }
    }
}
