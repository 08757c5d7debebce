//! Watch of one object, whose silence is bounded.
//!
//! It replaces a poll of the object: a change arrives at once, and an object that does not change
//! costs one watch request per period. The API server ends each watch after the period, so that a
//! connection on which nothing arrives is detected by the missing end.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{api_contact::ApiContact, api_error::ApiErrorKind};

/// Timeout of the list, and of the start of a watch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after the period within which the end of a watch must arrive.
const END_GRACE: Duration = Duration::from_secs(5);
/// Pause after the first failure. It doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Longest pause after a failure that the same request meets again, such as a missing permission.
const MAX_REJECTION_BACKOFF: Duration = Duration::from_secs(60);
/// Duration below which a watch that ends counts as a failure, so that it is not repeated at once.
const MIN_DURATION: Duration = Duration::from_millis(500);
/// Exponent at which the pause has reached every limit: 500 ms x 2^7 = 64 s.
const MAX_EXPONENT: u32 = 7;

/// Observation of the object.
#[derive(Debug, PartialEq)]
pub enum Observation<K> {
    /// State of the object; `None` when it does not exist.
    State(Option<Box<K>>),
    /// The API server answered, and the object has not changed since the last observation.
    Unchanged,
}

/// Failure of the watch, which is established again.
#[derive(Debug, thiserror::Error)]
pub enum WatchFailure {
    /// Request that failed, or event that could not be decoded.
    #[error(transparent)]
    Request(#[from] kube::Error),
    /// Request without a response, or watch that did not end in time.
    #[error("no response of the API server in time")]
    Silent,
    /// Watch that ended earlier than [`MIN_DURATION`].
    #[error("the API server ended the watch at once")]
    Ended,
}

impl WatchFailure {
    /// Reports whether the same request would fail again until a permission is changed.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Request(error) if ApiErrorKind::of(error).is_rejection())
    }
}

enum Stage<K> {
    /// The object is listed next.
    List,
    /// A watch from this resource version is started next.
    Start(String),
    Watch {
        events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
        version: String,
        started: Instant,
    },
}

/// Watch of one object.
pub struct ObjectWatch<K> {
    api: Api<K>,
    selector: String,
    period: Duration,
    contact: ApiContact,
    stage: Stage<K>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl<K> ObjectWatch<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Creates the watch of the object `name`. Each request lasts `period` at most, of which whole
    /// seconds count. Every response is recorded to `contact`.
    #[must_use]
    pub fn new(api: Api<K>, name: &str, period: Duration, contact: ApiContact) -> Self {
        Self {
            api,
            selector: format!("metadata.name={name}"),
            period,
            contact,
            stage: Stage::List,
            failures: 0,
            retry_at: None,
        }
    }

    /// Reports whether a watch is open, so that a change is observed when it happens.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Watch { .. })
    }

    /// Waits for the next observation, the first of which is the state. A failure is reported within
    /// the period and 10 s; the next call waits for the end of a pause before it tries again.
    /// Cancel safe: a request that is dropped is sent again.
    pub async fn next(&mut self) -> Result<Observation<K>, WatchFailure> {
        if let Some(at) = self.retry_at {
            sleep_until(at).await;
            self.retry_at = None;
        }
        let seen = self.advance().await;
        match &seen {
            Ok(_) => self.contact.record(),
            Err(error) => self.back_off(error.is_rejection()),
        }
        seen
    }

    /// Sets the pause before the next request.
    fn back_off(&mut self, is_rejection: bool) {
        let limit = if is_rejection { MAX_REJECTION_BACKOFF } else { MAX_BACKOFF };
        let factor = 1_u32 << self.failures.min(MAX_EXPONENT);
        let pause = MIN_BACKOFF.saturating_mul(factor).min(limit);
        self.failures = self.failures.saturating_add(1);
        let pause = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.retry_at = Instant::now().checked_add(pause);
    }

    async fn advance(&mut self) -> Result<Observation<K>, WatchFailure> {
        match &mut self.stage {
            Stage::List => {
                let params = ListParams::default().fields(&self.selector);
                let list = timeout(REQUEST_TIMEOUT, self.api.list(&params)).await;
                let list = list.map_err(|_| WatchFailure::Silent)??;
                self.stage = Stage::Start(list.metadata.resource_version.unwrap_or_default());
                Ok(Observation::State(list.items.into_iter().next().map(Box::new)))
            }
            Stage::Start(version) => {
                let version = version.clone();
                let seconds = u32::try_from(self.period.as_secs().max(1)).unwrap_or(u32::MAX);
                let params = WatchParams::default().fields(&self.selector).timeout(seconds);
                let started = timeout(REQUEST_TIMEOUT, self.api.watch(&params, &version)).await;
                let events = match started.map_err(|_| WatchFailure::Silent)? {
                    Ok(events) => events.boxed(),
                    Err(error) => return Err(self.list_again(error.into())),
                };
                self.stage = Stage::Watch { events, version, started: Instant::now() };
                Ok(Observation::Unchanged)
            }
            Stage::Watch { .. } => self.next_event().await,
        }
    }

    /// Waits for the next event of the open watch, or for its end.
    async fn next_event(&mut self) -> Result<Observation<K>, WatchFailure> {
        let longest = self.period.saturating_add(END_GRACE);
        let Stage::Watch { events, version, started } = &mut self.stage else {
            return Ok(Observation::Unchanged);
        };
        let end = started.checked_add(longest).unwrap_or(*started);
        let failure = match timeout_at(end, events.next()).await {
            Ok(Some(Ok(event))) => {
                self.failures = 0;
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        *version = object.resource_version().unwrap_or_default();
                        return Ok(Observation::State(Some(Box::new(object))));
                    }
                    WatchEvent::Deleted(object) => {
                        *version = object.resource_version().unwrap_or_default();
                        return Ok(Observation::State(None));
                    }
                    WatchEvent::Bookmark(bookmark) => {
                        *version = bookmark.metadata.resource_version;
                        return Ok(Observation::Unchanged);
                    }
                    WatchEvent::Error(status) => kube::Error::Api(status).into(),
                }
            }
            Ok(Some(Err(error))) => error.into(),
            Ok(None) if started.elapsed() < MIN_DURATION => WatchFailure::Ended,
            // The end of the period.
            Ok(None) => {
                self.failures = 0;
                self.stage = Stage::Start(std::mem::take(version));
                return Ok(Observation::Unchanged);
            }
            Err(_) => WatchFailure::Silent,
        };
        Err(self.list_again(failure))
    }

    /// Continues with a list: the resource version may be too old, or an event may be lost.
    fn list_again(&mut self, failure: WatchFailure) -> WatchFailure {
        self.stage = Stage::List;
        failure
    }
}
