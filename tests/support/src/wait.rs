//! Waits.

use std::time::{Duration, Instant};

/// Interval between checks of a wait.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Calls `look` until it returns a value. Returns `None` if it does not within `limit`.
pub async fn until<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    look: impl Fn() -> F,
) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = look().await;
        if found.is_some() || begun.elapsed() >= limit {
            return found;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
