//! Order of the first lists of the watches.

use tokio_util::sync::CancellationToken;

/// Barrier that is released when a watch has delivered its first list.
#[derive(Debug, Clone, Default)]
pub(super) struct InitialList(CancellationToken);

impl InitialList {
    /// Returns a barrier that is released already, for watches without a predecessor.
    pub(super) fn completed() -> Self {
        let listed = Self::default();
        listed.complete();
        listed
    }

    pub(super) fn complete(&self) {
        self.0.cancel();
    }

    /// Waits until the barrier is released.
    pub(super) async fn completion(&self) {
        self.0.cancelled().await;
    }

    #[cfg(test)]
    pub(super) fn is_complete(&self) -> bool {
        self.0.is_cancelled()
    }
}
