//! What only the leader does: the controller, schedules, and what is told to the outside.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    catalog::{Catalog, Schedules},
    controller,
    health::Checks,
    metrics::Metrics,
    notify::{self, Poster},
    rollout, schedule, starts,
};

/// What is needed to lead.
pub(super) struct Office {
    pub(super) client: Client,
    pub(super) settings: controller::Settings,
    pub(super) checks: Arc<Checks>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) catalog: Catalog,
    pub(super) schedules: Schedules,
    pub(super) wanted: rollout::Wanted,
    pub(super) poster: Poster,
    /// How many caches have their first list, and how many have to.
    pub(super) caches: (watch::Receiver<usize>, usize),
}

impl Office {
    /// Does all of it whenever this replica leads.
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
            let controller = controller::run(client, settings, checks, metrics, term.clone());
            let starts = starts::run(
                starts::Watcher {
                    client: self.client.clone(),
                    namespace: self.settings.namespace.clone(),
                    wanted: self.wanted.clone(),
                    metrics: Arc::clone(&self.metrics),
                },
                term.clone(),
            );
            let work = async { tokio::join!(controller, starts, self.rest(&term)) };
            tokio::pin!(work);
            tokio::select! {
                _ = &mut work => {}
                () = watched => {
                    work.await;
                }
            }
        }
    }

    /// What goes by the catalog, once that is whole.
    async fn rest(&self, term: &CancellationToken) {
        let (mut caches, needed) = self.caches.clone();
        let known = async { caches.wait_for(|count| *count >= needed).await.is_ok() };
        if term.run_until_cancelled(known).await != Some(true) {
            return;
        }
        let (client, catalog, metrics) = (&self.client, &self.catalog, &self.metrics);
        let schedules = self.schedules.clone();
        tokio::join!(
            schedule::run(client.clone(), catalog.clone(), schedules, Arc::clone(metrics), term.clone()),
            notify::run(client.clone(), catalog.clone(), self.poster.clone(), Arc::clone(metrics), term.clone()),
            api::sweep(client.clone(), self.settings.own_namespace.clone(), term.clone()),
        );
    }
}
