//! What only the leader does: the controller.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{controller, health::Checks, metrics::Metrics};

/// What is needed to lead.
pub(super) struct Office {
    pub(super) client: Client,
    pub(super) settings: controller::Settings,
    pub(super) checks: Arc<Checks>,
    pub(super) metrics: Arc<Metrics>,
}

impl Office {
    /// Runs the controller whenever this replica leads.
    pub(super) async fn hold(self, mut leads: watch::Receiver<bool>, stop: CancellationToken) {
        while stop.run_until_cancelled(leads.wait_for(|leads| *leads)).await.is_some_and(|result| result.is_ok()) {
            let term = stop.child_token();
            let mut deposed = leads.clone();
            let watched = async {
                // An error means that the election has ended, which ends the term too.
                let _ = deposed.wait_for(|leads| !leads).await;
                term.cancel();
            };
            let (client, settings) = (self.client.clone(), self.settings.clone());
            let (checks, metrics) = (Arc::clone(&self.checks), Arc::clone(&self.metrics));
            let work = controller::run(client, settings, checks, metrics, term.clone());
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => {}
                () = watched => work.await,
            }
        }
    }
}
