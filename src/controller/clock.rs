//! Clock of the controller: the API server's time at the start, advanced by a monotonic clock.
//!
//! Creation times are set by the API server. If they were compared with the local clock, a clock
//! that is ahead would time out every node at once, and so would a clock that is adjusted while
//! tasks run.

use std::time::Duration;

use http::Request;
use jiff::fmt::rfc2822;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body};
use tokio::time::Instant;

/// Maximum duration of the request for the API server's time. A slower response is too inaccurate.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(3);

/// Maximum difference from the `Date` header at which the local clock is used. The header has whole
/// seconds and the response takes time, so such a clock may be correct. Otherwise an end time could
/// be a second before the start time that the API server has written.
const MAX_IGNORED_SKEW: SignedDuration = SignedDuration::from_secs(2);
/// Difference above which a warning is logged.
const MAX_SILENT_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// Monotonic clock.
#[derive(Debug, Clone)]
pub(super) struct ServerClock {
    base: Timestamp,
    started: Instant,
}

impl ServerClock {
    /// Returns a clock that starts at `base`.
    pub(super) fn starting_at(base: Timestamp) -> Self {
        Self { base, started: Instant::now() }
    }

    /// Returns a clock that starts at the API server's time, or at local time if that cannot be
    /// read.
    pub(super) async fn from_api_server(client: &Client) -> Self {
        let Ok(Some(base)) = tokio::time::timeout(MAX_REQUEST_TIME, server_time(client)).await
        else {
            tracing::warn!("cannot read the time of the API server; using the local clock");
            return Self::starting_at(Timestamp::now());
        };
        let here = Timestamp::now();
        let ahead = here.duration_since(base);
        if ahead.abs() <= MAX_IGNORED_SKEW {
            return Self::starting_at(here);
        }
        if ahead.abs() > MAX_SILENT_SKEW {
            let seconds = ahead.as_secs();
            tracing::warn!(
                seconds,
                "local clock is ahead of the API server by `seconds` (negative: behind); using the API server's time"
            );
        }
        Self::starting_at(base)
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed =
            SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        self.base.saturating_add(passed).unwrap_or(self.base)
    }
}

/// Returns the `Date` header of a response with any status code. It has whole seconds, so it is up
/// to a second behind, which cannot cause an early timeout.
async fn server_time(client: &Client) -> Option<Timestamp> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    let answer = client.send(request).await.ok()?;
    let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    Some(rfc2822::parse(date).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(date: Option<&str>) -> Client {
        let date = date.map(str::to_owned);
        let service = tower::service_fn(move |_: Request<Body>| {
            let date = date.clone();
            async move {
                let answer = http::Response::builder();
                let answer =
                    date.into_iter().fold(answer, |answer, date| answer.header("date", date));
                Ok::<_, std::convert::Infallible>(answer.body(Body::empty()).unwrap())
            }
        });
        Client::new(service, "x")
    }

    #[tokio::test(start_paused = true)]
    async fn clock_starts_at_api_server_time_and_advances() {
        let clock =
            ServerClock::from_api_server(&client(Some("Sun, 06 Nov 1994 08:49:37 GMT"))).await;
        assert_eq!(clock.now().to_string(), "1994-11-06T08:49:37Z");
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "1994-11-06T08:51:07Z");
    }

    #[tokio::test(start_paused = true)]
    async fn small_skew_keeps_the_local_clock() {
        let before = Timestamp::now();
        let date = before.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(ServerClock::from_api_server(&client(Some(&date))).await.now() >= before);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_date_the_local_clock_is_used() {
        for date in [None, Some("yesterday")] {
            let apart = ServerClock::from_api_server(&client(date))
                .await
                .now()
                .duration_since(Timestamp::now());
            assert!(apart.abs() < SignedDuration::from_secs(60), "{apart}");
        }
    }
}
