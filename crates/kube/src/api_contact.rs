//! Time of the last contact to the API server, over all components of a process.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Time of the last response or watch event of the API server. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ApiContact(Arc<Mutex<Option<Instant>>>);

impl ApiContact {
    /// Records a response or an event that has just arrived.
    pub fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns the time since the last contact, or `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}
