//! How much callers may cost: calls, guesses at tokens, and questions to the API server.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use axum::http::StatusCode;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter, clock::Clock};
use moka::future::Cache;

use super::reviews::Fingerprint;
use crate::api::error::ApiError;

/// Kubernetes tokens that are not known yet, from one address in a second, and at once. Each costs a request to the API server.
const UNKNOWN: (u32, u32) = (50, 200);
/// The same from all addresses together: the API server answers thousands of `TokenReview`s in a second, and shares them with others.
const ALL_UNKNOWN: (u32, u32) = (200, 400);
/// API tokens that do not exist, from one address in a second, and at once. They cost a hash.
const WRONG: (u32, u32) = (50, 200);
/// Questions about one caller's rights that the API server is asked in a second, and at once: a page asks up to 8, and answers
/// are believed for 10 s.
const QUESTIONS: (u32, u32) = (20, 200);
/// The same for all callers together.
const ALL_QUESTIONS: (u32, u32) = (400, 800);
/// Addresses of which something is remembered, of about 100 bytes each. Where there are more, only the limit for all holds.
const MAX_ADDRESSES: usize = 20_000;
/// For how long a token that was good passes the limit for unknown ones after its last call, so that a stranger behind the same
/// proxy does not keep its owner out.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// Tokens that are remembered as good, of about 100 bytes each.
const MAX_GOOD: u64 = 10_000;

/// The limits. Clones share them.
pub(super) struct Limits {
    calls: DefaultKeyedRateLimiter<String>,
    unknown: DefaultKeyedRateLimiter<IpAddr>,
    all_unknown: DefaultDirectRateLimiter,
    wrong: DefaultKeyedRateLimiter<IpAddr>,
    questions: DefaultKeyedRateLimiter<String>,
    all_questions: DefaultDirectRateLimiter,
    good: Cache<Fingerprint, ()>,
}

fn quota((per_second, burst): (u32, u32)) -> Quota {
    let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(positive(per_second)).allow_burst(positive(burst))
}

/// The part of an address by which its owner is told apart: whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Limits {
    /// Limits with `rate` calls a second for each caller, and twice as many at once.
    pub(super) fn new(rate: u32) -> Self {
        Self {
            calls: RateLimiter::keyed(quota((rate, rate.saturating_mul(2)))),
            unknown: RateLimiter::keyed(quota(UNKNOWN)),
            all_unknown: RateLimiter::direct(quota(ALL_UNKNOWN)),
            wrong: RateLimiter::keyed(quota(WRONG)),
            questions: RateLimiter::keyed(quota(QUESTIONS)),
            all_questions: RateLimiter::direct(quota(ALL_QUESTIONS)),
            good: Cache::builder().max_capacity(MAX_GOOD).time_to_idle(GOOD_FOR).build(),
        }
    }

    /// Forgets callers and addresses that have not called for long.
    pub(super) fn forget(&self) {
        self.calls.retain_recent();
        self.questions.retain_recent();
        for addresses in [&self.unknown, &self.wrong] {
            addresses.retain_recent();
            addresses.shrink_to_fit();
        }
    }

    /// Counts a call.
    pub(super) fn call(&self, caller: &str) -> Result<(), ApiError> {
        keyed(&self.calls, &caller.to_owned())
    }

    /// Counts a Kubernetes token that the API server must be asked about. Those that were good lately are not counted.
    pub(super) async fn unknown(&self, token: &Fingerprint, from: IpAddr) -> Result<(), ApiError> {
        if self.good.get(token).await.is_some() {
            return Ok(());
        }
        at(&self.unknown, from)?;
        direct(&self.all_unknown)
    }

    /// Notes whether a Kubernetes token was good.
    pub(super) async fn note(&self, token: Fingerprint, good: bool) {
        if good {
            self.good.insert(token, ()).await;
        } else {
            self.good.invalidate(&token).await;
        }
    }

    /// Counts an API token that does not exist.
    pub(super) fn wrong(&self, from: IpAddr) -> Result<(), ApiError> {
        at(&self.wrong, from)
    }

    /// Counts a question about a caller's rights that the API server must be asked.
    pub(super) fn question(&self, caller: &str) -> Result<(), ApiError> {
        keyed(&self.questions, &caller.to_owned())?;
        direct(&self.all_questions)
    }
}

fn at(limiter: &DefaultKeyedRateLimiter<IpAddr>, from: IpAddr) -> Result<(), ApiError> {
    let from = network(from);
    // A flood from ever new addresses must not fill the memory.
    if limiter.len() >= MAX_ADDRESSES { Ok(()) } else { keyed(limiter, &from) }
}

fn keyed<K>(limiter: &DefaultKeyedRateLimiter<K>, key: &K) -> Result<(), ApiError>
where
    K: std::hash::Hash + Eq + Clone,
{
    limiter.check_key(key).map_err(|refused: NotUntil<_>| too_many(refused.wait_time_from(limiter.clock().now())))
}

fn direct(limiter: &DefaultDirectRateLimiter) -> Result<(), ApiError> {
    limiter.check().map_err(|refused| too_many(refused.wait_time_from(limiter.clock().now())))
}

fn too_many(wait: Duration) -> ApiError {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    ApiError::later(StatusCode::TOO_MANY_REQUESTS, format!("too many calls: try again in {seconds} s"), seconds)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::api::auth::reviews::Fingerprints;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn calls_are_limited_by_caller() {
        let limits = Limits::new(5);
        // However slow the machine is, it is not so slow that a thousand are let in.
        let refused: Vec<ApiError> = (0..1000).filter_map(|_| limits.call("token:one").err()).collect();
        assert!(refused.len() <= 990 && refused[0].code == StatusCode::TOO_MANY_REQUESTS, "{}", refused.len());
        assert!(limits.call("token:other").is_ok());
    }

    /// Behind a proxy all callers have one address.
    #[tokio::test]
    async fn a_stranger_does_not_keep_others_of_the_same_address_out() {
        let (limits, prints) = (Limits::new(5), Fingerprints::default());
        let (known, unknown) = (prints.of(b"known"), prints.of(b"unknown"));
        limits.note(known, true).await;
        let mut taken = 0;
        while limits.unknown(&unknown, HERE).await.is_ok() {
            taken += 1;
            assert!(taken < 100 * UNKNOWN.1, "without a limit");
        }
        assert!(taken >= UNKNOWN.1, "{taken}");
        while limits.wrong(HERE).is_ok() {}
        assert!(limits.unknown(&known, HERE).await.is_ok(), "a token that was good lately passes");
        let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
        assert!(limits.unknown(&unknown, elsewhere).await.is_ok(), "another address has a limit of its own");
        limits.note(known, false).await;
        while limits.unknown(&unknown, HERE).await.is_ok() {}
        assert!(limits.unknown(&known, HERE).await.is_err(), "a token that is good no longer is limited");
    }

    #[tokio::test]
    async fn all_addresses_together_have_a_limit() {
        let (limits, token) = (Limits::new(5), Fingerprints::default().of(b"x"));
        let mut passed = 0;
        for address in 0..20_000_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(address));
            passed += u32::from(limits.unknown(&token, from).await.is_ok());
        }
        assert!(passed >= ALL_UNKNOWN.1 && passed < 10_000, "{passed}");
        limits.forget();
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
