//! Parts of pages that renew themselves: server-sent events whose data are HTML.

use std::time::Duration;

use axum::response::{Response, sse::Event};
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::session::Viewer;
use crate::api::{
    Api,
    auth::{Deed, Standing, Visible},
    error::ApiError,
    tasks::readable,
    watch::{Counted, REVIEW, server_sent},
};

/// The parts of a page: the name of each, and its HTML.
pub(super) type Parts = Vec<(&'static str, String)>;

/// What is shown now: the parts, and whether nothing follows. An error is the end, unless it says that nobody could answer.
pub(super) type Shown = Result<(Parts, bool), ApiError>;

/// A page is not renewed more often: nobody reads faster.
const PACE: Duration = Duration::from_millis(700);
/// When it is looked again after a look that nobody could answer.
const AGAIN: Duration = Duration::from_secs(5);
/// With more pages and watches open than this, each is renewed less often: all of them together cause about 70 renderings a
/// second, however many there are.
const MANY: usize = 50;

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
    let counted = Counted::new(api, &viewer.caller)?;
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
    };
    let events = stream::unfold(stream, |mut stream| async move { stream.next().await.map(|batch| (batch, stream)) });
    Ok(server_sent(events.flat_map(stream::iter), counted))
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
        let pace = tokio::time::sleep(pace(self.api.bounds.watching()));
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

/// How long a page is not renewed while so many are open. *Pure.*
fn pace(open: usize) -> Duration {
    PACE.saturating_mul(u32::try_from((open / MANY).max(1)).unwrap_or(u32::MAX)).min(REVIEW)
}

/// The data of an event are lines; a carriage return would break them.
fn event(name: &str, html: &str) -> Event {
    Event::default().event(name).data(html.replace('\r', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pages_are_renewed_less_often() {
        assert_eq!((pace(0), pace(MANY), pace(10 * MANY)), (PACE, PACE, PACE * 10));
        assert!(pace(4096) <= REVIEW && pace(4096) > Duration::from_secs(50));
    }
}
