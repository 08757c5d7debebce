//! Running components: the wait for a signal or a failure, and the shutdown.

use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

use crate::supervise::{ComponentFailure, ComponentSet};

/// Time limit of the shutdown, after which components that have not ended are abandoned. It is less
/// than the 30 s of the default `terminationGracePeriodSeconds` of a pod.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// Running components, in the order of their shutdown.
#[derive(Default)]
pub(super) struct ServiceComponents {
    /// Components that act while this replica leads. They end before the Lease is released.
    pub(super) leading: ComponentSet,
    pub(super) election: ComponentSet,
    pub(super) others: ComponentSet,
}

impl ServiceComponents {
    /// Waits for a signal or for the first failure of a component.
    pub(super) async fn run(&mut self) -> anyhow::Result<Option<ComponentFailure>> {
        tokio::select! {
            result = wait_for_signal() => result.map(|()| None),
            failure = self.leading.next_failure() => Ok(Some(failure)),
            failure = self.election.next_failure() => Ok(Some(failure)),
            failure = self.others.next_failure() => Ok(Some(failure)),
        }
    }

    /// Stops all components. The Lease is released when no component acts as the leader any more.
    /// Where one does not end in time, the Lease is not released and expires.
    pub(super) async fn shut_down(&mut self, stop: &CancellationToken, resign: &CancellationToken) {
        stop.cancel();
        let ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, async {
            let _ = self.leading.join_all().await;
            resign.cancel();
            let _ = self.election.join_all().await;
            let _ = self.others.join_all().await;
        });
        if ended.await.is_err() {
            tracing::warn!("shutdown timed out: some components did not end");
        }
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
