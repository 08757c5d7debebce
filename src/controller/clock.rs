//! The controller's clock: the API server's time as it was at the beginning, and since then only what a monotonic clock has counted.
//!
//! Creation times are the API server's. Were they compared with this machine's clock, one that is ahead would end every node at once;
//! and a clock that is set while tasks run would do so too.

use std::time::Duration;

use http::Request;
use jiff::fmt::rfc2822;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body};
use tokio::time::Instant;

/// An answer of the API server that takes longer says too little of its time.
const LONGEST: Duration = Duration::from_secs(3);

/// A clock that differs from the `Date` by no more may be right: the header is in whole seconds, and the answer took its time. Then it
/// counts, so that an end is not written down a second before the beginning that the API server has written.
const AGREES: SignedDuration = SignedDuration::from_secs(2);
/// Clocks that differ by more are told of.
const TOLERATED: SignedDuration = SignedDuration::from_secs(5);

/// A clock that only goes forward.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    base: Timestamp,
    begun: Instant,
}

impl Clock {
    /// From `base` on.
    pub(super) fn from(base: Timestamp) -> Self {
        Self { base, begun: Instant::now() }
    }

    /// By the API server's time; by this machine's, where it tells none.
    pub(super) async fn of_server(client: &Client) -> Self {
        let Ok(Some(base)) = tokio::time::timeout(LONGEST, server_time(client)).await else {
            tracing::warn!("the API server does not tell its time; this machine's counts");
            return Self::from(Timestamp::now());
        };
        let here = Timestamp::now();
        let ahead = here.duration_since(base);
        if ahead.abs() <= AGREES {
            return Self::from(here);
        }
        if ahead.abs() > TOLERATED {
            let seconds = ahead.as_secs();
            tracing::warn!(seconds, "this machine's clock is ahead of the API server's; the API server's counts");
        }
        Self::from(base)
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.begun.elapsed()).unwrap_or(SignedDuration::MAX);
        self.base.saturating_add(passed).unwrap_or(self.base)
    }
}

/// The `Date` of an answer, whatever the answer: in whole seconds, so up to a second behind, which makes nothing end early.
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
                let answer = date.into_iter().fold(answer, |answer, date| answer.header("date", date));
                Ok::<_, std::convert::Infallible>(answer.body(Body::empty()).unwrap())
            }
        });
        Client::new(service, "x")
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_the_api_servers_and_passes_by_itself() {
        let clock = Clock::of_server(&client(Some("Sun, 06 Nov 1994 08:49:37 GMT"))).await;
        assert_eq!(clock.now().to_string(), "1994-11-06T08:49:37Z");
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "1994-11-06T08:51:07Z");
    }

    #[tokio::test(start_paused = true)]
    async fn whole_seconds_do_not_set_a_good_clock_back() {
        let before = Timestamp::now();
        let date = before.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(Clock::of_server(&client(Some(&date))).await.now() >= before);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_it_is_this_machines() {
        for date in [None, Some("yesterday")] {
            let apart = Clock::of_server(&client(date)).await.now().duration_since(Timestamp::now());
            assert!(apart.abs() < SignedDuration::from_secs(60), "{apart}");
        }
    }
}
