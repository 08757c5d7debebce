//! Streams of events, for the live updates of the pages.

use axum::response::{Response, sse::Event};
use futures::Stream;
use tokio_util::sync::CancellationToken;

use super::{ApiError, Caller, PagesApi, Revalidation};
use crate::api::watch::{WatchPermit, event_stream_response};

impl PagesApi {
    /// Responds with server-sent events until `events` ends or a send to the client times out. The
    /// stream counts as one of the caller's watches. Errors: 429 and 503 when the caller, or all
    /// callers together, have too many.
    pub fn stream_events(
        &self,
        caller: &Caller,
        events: impl Stream<Item = Event> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let counted = WatchPermit::new(&self.api, caller)?;
        Ok(event_stream_response(events, counted))
    }

    /// Returns the number of open watches and live pages of all callers.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.api.budgets.open_watches()
    }

    /// Returns the token that is cancelled at shutdown: open streams must end.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.api.stop.clone()
    }

    /// Reviews the token of a stream's caller. Reports whether the stream may continue.
    pub async fn revalidate(&self, caller: &mut Revalidation) -> bool {
        caller.revalidate(&self.api.auth, None).await
    }
}
