//! Parts of pages that renew themselves: server-sent events whose data are HTML.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::session::Viewer;
use crate::api::{
    Api,
    auth::{Deed, Standing, Visible},
    error::ApiError,
    tasks::readable,
    watch::{Counted, HEARTBEAT, MAX_WATCHERS, REVIEW},
};

/// The parts of a page: the name of each, and its HTML.
pub(super) type Parts = Vec<(&'static str, String)>;

/// What is shown now: the parts, and whether nothing follows. An error is the end, unless it says that nobody could answer.
pub(super) type Shown = Result<(Parts, bool), ApiError>;

/// A page is not renewed more often: nobody reads faster.
const PACE: Duration = Duration::from_millis(700);
/// When it is looked again after a look that nobody could answer.
const AGAIN: Duration = Duration::from_secs(5);

struct Stream<L> {
    look: L,
    changes: Vec<watch::Receiver<u64>>,
    told: Parts,
    api: Api,
    viewer: Viewer,
    standing: Standing,
    reviewed: Instant,
    /// When there was something to show last.
    shown: Instant,
    unanswered: bool,
    over: bool,
    first: bool,
    _counted: Counted,
}

/// Tells parts as they change, until the end. `changes` say when it is worth to `look` again.
pub(super) fn events<L, F>(
    api: &Api,
    viewer: &Viewer,
    changes: Vec<watch::Receiver<u64>>,
    look: L,
) -> Result<Response, ApiError>
where
    L: Fn(Api, Viewer) -> F + Send + 'static,
    F: Future<Output = Shown> + Send + 'static,
{
    if api.metrics.api_watchers.get() >= MAX_WATCHERS {
        let words = "too many watch already";
        return Err(ApiError::later(axum::http::StatusCode::SERVICE_UNAVAILABLE, words, 10));
    }
    let stream = Stream {
        look,
        changes,
        told: Vec::new(),
        api: api.clone(),
        viewer: viewer.clone(),
        standing: Standing::new(viewer.caller.clone()),
        reviewed: Instant::now(),
        shown: Instant::now(),
        unanswered: false,
        over: false,
        first: true,
        _counted: Counted::new(&api.metrics),
    };
    let events = stream::unfold(stream, |mut stream| async move { stream.next().await.map(|batch| (batch, stream)) });
    let events = events.flat_map(|batch| stream::iter(batch.into_iter().map(Ok::<Event, Infallible>)));
    let keep = KeepAlive::new().interval(HEARTBEAT).text("alive");
    Ok(([("x-accel-buffering", "no")], Sse::new(events).keep_alive(keep)).into_response())
}

/// The one part of a list, as far as the viewer may see what it lists.
pub(super) async fn list<R>(
    api: &Api,
    viewer: &Viewer,
    changes: Vec<watch::Receiver<u64>>,
    (deed, named): (Deed, Option<String>),
    (name, render): (&'static str, R),
) -> Result<Response, ApiError>
where
    R: Fn(&Api, &Visible) -> String + Clone + Send + Sync + 'static,
{
    readable(api, &viewer.caller, deed, named.clone()).await?;
    events(api, viewer, changes, move |api, viewer| {
        let (render, named) = (render.clone(), named.clone());
        async move {
            let visible = readable(&api, &viewer.caller, deed, named).await?;
            Ok((vec![(name, render(&api, &visible))], false))
        }
    })
}

impl<L, F> Stream<L>
where
    L: Fn(Api, Viewer) -> F,
    F: Future<Output = Shown>,
{
    /// The parts that have changed; waits until some have.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            if self.over {
                return None;
            }
            if !std::mem::take(&mut self.first) && !self.changed().await {
                return Some(vec![self.end()]);
            }
            if self.reviewed.elapsed() >= REVIEW {
                self.reviewed = Instant::now();
                if !self.standing.review(&self.api.auth, None).await {
                    return Some(vec![self.end()]);
                }
                // What is shown from now on is what the viewer may see now.
                self.viewer.caller = self.standing.caller().clone();
            }
            let (parts, over) = match (self.look)(self.api.clone(), self.viewer.clone()).await {
                Ok(shown) => shown,
                Err(error) if error.is_passing() && Standing::is_recent(self.shown) => {
                    self.unanswered = true;
                    continue;
                }
                Err(_) => return Some(vec![self.end()]),
            };
            (self.shown, self.unanswered) = (Instant::now(), false);
            let news = |part: &&(&'static str, String)| !self.told.contains(part);
            let mut batch: Vec<Event> = parts.iter().filter(news).map(|(name, html)| event(name, html)).collect();
            self.told = parts;
            if over {
                batch.push(self.end());
            }
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Waits for a change, or until it is time to see whether the viewer may still look. False: the server stops.
    async fn changed(&mut self) -> bool {
        let stop = self.api.stop.clone();
        let pace = tokio::time::sleep(PACE);
        if stop.run_until_cancelled(pace).await.is_none() {
            return false;
        }
        let waits = self.changes.iter_mut().map(|one| Box::pin(one.changed()));
        let most = if self.unanswered { AGAIN } else { REVIEW };
        let wait = tokio::time::timeout(most, futures::future::select_all(waits));
        stop.run_until_cancelled(wait).await.is_some()
    }

    /// By this word the page closes the stream, and does not ask again. (Browsers ignore an event without data.)
    fn end(&mut self) -> Event {
        self.over = true;
        Event::default().event("end").data("over")
    }
}

/// The data of an event are lines; a carriage return would break them.
fn event(name: &str, html: &str) -> Event {
    Event::default().event(name).data(html.replace('\r', " "))
}
