//! Live updates of pages: server-sent events whose data are HTML fragments.

use std::time::Duration;

use axum::response::{Response, sse::Event};
use futures::{StreamExt, stream};
use prewarmer::api::pages::{
    ApiError, NamespaceScope, PagesApi, Permission, REVIEW_INTERVAL, Revalidation,
};
use tokio::{sync::watch, time::Instant};

use super::viewer::Viewer;

/// Parts of a page: the event name of each, and its HTML.
pub(super) type PageParts = Vec<(&'static str, String)>;

/// Current parts, and whether they are final. A transient error is retried; any other ends the
/// stream.
pub(super) type RenderResult = Result<(PageParts, bool), ApiError>;

/// Minimum interval between updates of a page.
const MIN_INTERVAL: Duration = Duration::from_millis(700);
/// Retry interval after a transient error.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Number of open pages and watches beyond which each is updated less often. It bounds the total to
/// about 70 renderings per second.
const STREAMS_AT_MIN_INTERVAL: usize = 50;

struct PageStream<L> {
    look: L,
    changes: Vec<watch::Receiver<u64>>,
    sent: PageParts,
    api: PagesApi,
    viewer: Viewer,
    revalidation: Revalidation,
    reviewed: Instant,
    /// Time of the last successful rendering.
    rendered_at: Instant,
    failed_last: bool,
    ended: bool,
    first: bool,
}

/// Streams parts as they change, until they are final. `changes` signal when to call `look` again.
pub(super) fn stream_parts<L, F>(
    api: &PagesApi,
    viewer: &Viewer,
    changes: Vec<watch::Receiver<u64>>,
    look: L,
) -> Result<Response, ApiError>
where
    L: Fn(PagesApi, Viewer) -> F + Send + 'static,
    F: Future<Output = RenderResult> + Send + 'static,
{
    let stream = PageStream {
        look,
        changes,
        sent: Vec::new(),
        api: api.clone(),
        viewer: viewer.clone(),
        revalidation: Revalidation::new(viewer.caller.clone()),
        reviewed: Instant::now(),
        rendered_at: Instant::now(),
        failed_last: false,
        ended: false,
        first: true,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        stream.next().await.map(|batch| (batch, stream))
    });
    api.stream_events(&viewer.caller, events.flat_map(stream::iter))
}

/// Streams the single part of a list page, restricted to the namespaces that the user may see.
pub(super) async fn stream_list<R>(
    api: &PagesApi,
    viewer: &Viewer,
    changes: Vec<watch::Receiver<u64>>,
    (deed, named): (Permission, Option<String>),
    (name, render): (&'static str, R),
) -> Result<Response, ApiError>
where
    R: Fn(&PagesApi, &NamespaceScope) -> String + Clone + Send + Sync + 'static,
{
    api.visible_namespaces(&viewer.caller, deed, named.clone()).await?;
    stream_parts(api, viewer, changes, move |api, viewer| {
        let (render, named) = (render.clone(), named.clone());
        async move {
            let visible = api.visible_namespaces(&viewer.caller, deed, named).await?;
            Ok((vec![(name, render(&api, &visible))], false))
        }
    })
}

impl<L, F> PageStream<L>
where
    L: Fn(PagesApi, Viewer) -> F,
    F: Future<Output = RenderResult>,
{
    /// Returns the changed parts; waits until there are some. `None` ends the stream.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            if self.ended {
                return None;
            }
            if !std::mem::take(&mut self.first) && !self.wait_for_change().await {
                return Some(vec![self.end_event()]);
            }
            if self.reviewed.elapsed() >= REVIEW_INTERVAL {
                self.reviewed = Instant::now();
                if !self.api.revalidate(&mut self.revalidation).await {
                    return Some(vec![self.end_event()]);
                }
                // Later parts are rendered with the current permissions.
                self.viewer.caller = self.revalidation.caller().clone();
            }
            let (parts, over) = match (self.look)(self.api.clone(), self.viewer.clone()).await {
                Ok(shown) => shown,
                Err(error) if error.is_transient() && Revalidation::is_recent(self.rendered_at) => {
                    self.failed_last = true;
                    continue;
                }
                Err(_) => return Some(vec![self.end_event()]),
            };
            (self.rendered_at, self.failed_last) = (Instant::now(), false);
            let news = |part: &&(&'static str, String)| !self.sent.contains(part);
            let mut batch: Vec<Event> =
                parts.iter().filter(news).map(|(name, html)| part_event(name, html)).collect();
            self.sent = parts;
            if over {
                batch.push(self.end_event());
            }
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    /// Waits for a change, or until the next review of permissions is due. Returns false if the
    /// server shuts down.
    async fn wait_for_change(&mut self) -> bool {
        let stop = self.api.stop_token();
        let pace = tokio::time::sleep(update_interval(self.api.open_streams()));
        if stop.run_until_cancelled(pace).await.is_none() {
            return false;
        }
        let waits = self.changes.iter_mut().map(|one| Box::pin(one.changed()));
        let most = if self.failed_last { RETRY_INTERVAL } else { REVIEW_INTERVAL };
        let wait = tokio::time::timeout(most, futures::future::select_all(waits));
        stop.run_until_cancelled(wait).await.is_some()
    }

    /// Marks the stream as ended and returns the event on which the page closes it without
    /// reconnecting. The event has data because browsers ignore events without.
    fn end_event(&mut self) -> Event {
        self.ended = true;
        Event::default().event("end").data("over")
    }
}

/// Computes the minimum interval between updates of a page while `open` streams exist. Pure: no
/// client, no clock, no I/O.
fn update_interval(open: usize) -> Duration {
    MIN_INTERVAL
        .saturating_mul(u32::try_from((open / STREAMS_AT_MIN_INTERVAL).max(1)).unwrap_or(u32::MAX))
        .min(REVIEW_INTERVAL)
}

/// Creates the event of a part. Carriage returns are replaced because they would end a line of
/// data.
fn part_event(name: &str, html: &str) -> Event {
    Event::default().event(name).data(html.replace('\r', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_interval_grows_with_open_streams() {
        assert_eq!(
            (
                update_interval(0),
                update_interval(STREAMS_AT_MIN_INTERVAL),
                update_interval(10 * STREAMS_AT_MIN_INTERVAL)
            ),
            (MIN_INTERVAL, MIN_INTERVAL, MIN_INTERVAL * 10)
        );
        assert!(
            update_interval(4096) <= REVIEW_INTERVAL
                && update_interval(4096) > Duration::from_secs(50)
        );
    }
}
