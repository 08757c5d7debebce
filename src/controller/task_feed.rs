//! Connection from the informer of tasks, which every replica runs, to the controller of the leader.

use std::{ops::ControlFlow, sync::Arc};

use prewarmer_core::{
    controller::{Observation, WatchChange},
    task::PrewarmTask,
};
use tokio::sync::{mpsc::Sender, watch};
use tokio_util::sync::CancellationToken;

use super::watches::InitialList;

/// Feed of task changes, to which the controller of each term subscribes. Clones share it.
#[derive(Clone)]
pub struct TaskFeed(Arc<watch::Sender<Option<TaskSubscription>>>);

impl Default for TaskFeed {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl TaskFeed {
    /// Subscribes a controller: it gets a list of all tasks, and then every change, until `stop`.
    /// Replaces the controller of an earlier term. `listed` is released after the list.
    pub(super) fn subscribe(
        &self,
        events: Sender<Observation>,
        listed: InitialList,
        stop: CancellationToken,
    ) {
        self.0.send_replace(Some(TaskSubscription { events, listed, stop }));
    }

    /// Returns the subscriptions, for the informer.
    pub(crate) fn subscriptions(&self) -> watch::Receiver<Option<TaskSubscription>> {
        self.0.subscribe()
    }
}

/// Subscription of one controller.
#[derive(Clone)]
pub(crate) struct TaskSubscription {
    events: Sender<Observation>,
    listed: InitialList,
    stop: CancellationToken,
}

impl TaskSubscription {
    /// Sends a change, and waits while the controller's queue is full. `Break`: the term has ended.
    pub(crate) async fn send(&self, change: WatchChange<Arc<PrewarmTask>>) -> ControlFlow<()> {
        let is_list = matches!(change, WatchChange::Restarted(_));
        let sent = self.stop.run_until_cancelled(self.events.send(Observation::Task(change))).await;
        if !matches!(sent, Some(Ok(()))) {
            return ControlFlow::Break(());
        }
        if is_list {
            self.listed.complete();
        }
        ControlFlow::Continue(())
    }
}
