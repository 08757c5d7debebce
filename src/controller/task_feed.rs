//! Connection from the informer of tasks, which every replica runs, to the controller of the leader.

use std::{ops::ControlFlow, sync::Arc};

use prewarmer_core::{
    controller::{Observation, WatchChange},
    task::PrewarmTask,
};
use tokio::sync::{mpsc::Sender, watch};
use tokio_util::sync::CancellationToken;

use super::initial_list::InitialList;

/// Feed of task changes, to which the controller of each term subscribes. Clones share it.
#[derive(Clone)]
pub(crate) struct TaskFeed(Arc<watch::Sender<Option<TaskSubscription>>>);

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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn subscription(
        capacity: usize,
    ) -> (TaskSubscription, mpsc::Receiver<Observation>, InitialList, CancellationToken) {
        let (events, received) = mpsc::channel(capacity);
        let (feed, listed, stop) =
            (TaskFeed::default(), InitialList::default(), CancellationToken::new());
        feed.subscribe(events, listed.clone(), stop.clone());
        let subscription = feed.subscriptions().borrow_and_update().clone().unwrap();
        (subscription, received, listed, stop)
    }

    #[tokio::test]
    async fn a_list_releases_the_watches_of_owned_objects_after_it_is_queued() {
        let (subscription, mut received, listed, _stop) = subscription(2);
        assert!(subscription.send(WatchChange::Applied(Arc::default())).await.is_continue());
        assert!(!listed.is_complete());
        assert!(subscription.send(WatchChange::Restarted(Vec::new())).await.is_continue());
        assert!(listed.is_complete());
        assert!(matches!(received.recv().await, Some(Observation::Task(WatchChange::Applied(_)))));
        assert!(matches!(
            received.recv().await,
            Some(Observation::Task(WatchChange::Restarted(_)))
        ));
    }

    #[tokio::test]
    async fn the_end_of_the_term_ends_a_wait_for_a_full_queue() {
        let (subscription, _received, _listed, stop) = subscription(1);
        assert!(subscription.send(WatchChange::Applied(Arc::default())).await.is_continue());
        let blocked = subscription.send(WatchChange::Applied(Arc::default()));
        stop.cancel();
        assert!(blocked.await.is_break());
    }

    #[tokio::test]
    async fn a_controller_that_has_ended_breaks_the_subscription() {
        let (subscription, received, _listed, _stop) = subscription(1);
        drop(received);
        assert!(subscription.send(WatchChange::Applied(Arc::default())).await.is_break());
    }
}
