//! Rate limits of callers: calls, invalid tokens, and reviews by the API server.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use axum::http::StatusCode;
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter, clock::Clock,
};
use moka::future::Cache;

use super::fingerprint::Fingerprint;
use crate::api::error::ApiError;

/// Rate per second and burst of Kubernetes tokens without a cached review, per client address. Each
/// costs a request to the API server.
const UNKNOWN_TOKENS: (u32, u32) = (50, 200);
/// The same limit for all addresses together. The API server handles thousands of `TokenReview`s
/// per second, which other clients need as well.
const ALL_UNKNOWN_TOKENS: (u32, u32) = (200, 400);
/// Rate per second and burst of invalid API tokens, per client address. Each costs a hash.
const INVALID_API_TOKENS: (u32, u32) = (50, 200);
/// Rate per second and burst of `SubjectAccessReview`s, per caller. A page needs up to 8, and
/// results are cached for 10 s.
const ACCESS_REVIEWS: (u32, u32) = (20, 200);
/// The same limit for all callers together.
const ALL_ACCESS_REVIEWS: (u32, u32) = (400, 800);
/// Maximum number of addresses with a limiter, of about 100 bytes each. Beyond it only the global
/// limit applies.
const MAX_ADDRESSES: usize = 20_000;
/// Time after its last call for which a valid token is exempt from the limit of unknown tokens, so
/// that another client behind the same proxy cannot block its owner.
const VALID_TOKEN_IDLE: Duration = Duration::from_secs(3600);
/// Maximum number of tokens that are recorded as valid, of about 100 bytes each.
const MAX_VALID_TOKENS: u64 = 10_000;

/// Rate limiters for calls, tokens and access reviews.
pub(super) struct AuthLimits {
    calls: DefaultKeyedRateLimiter<String>,
    unknown_tokens: DefaultKeyedRateLimiter<IpAddr>,
    all_unknown_tokens: DefaultDirectRateLimiter,
    invalid_api_tokens: DefaultKeyedRateLimiter<IpAddr>,
    access_reviews: DefaultKeyedRateLimiter<String>,
    all_access_reviews: DefaultDirectRateLimiter,
    valid_tokens: Cache<Fingerprint, ()>,
}

fn quota((per_second, burst): (u32, u32)) -> Quota {
    let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(positive(per_second)).allow_burst(positive(burst))
}

/// Returns the part of an address that identifies a client: an IPv4 address, or the /64 network of
/// an IPv6 address, since a client with one IPv6 address usually has all 2^64 of its network.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl AuthLimits {
    /// Creates limits of `rate` calls per second for each caller, with a burst of twice that
    /// number.
    pub(super) fn new(rate: u32) -> Self {
        Self {
            calls: RateLimiter::keyed(quota((rate, rate.saturating_mul(2)))),
            unknown_tokens: RateLimiter::keyed(quota(UNKNOWN_TOKENS)),
            all_unknown_tokens: RateLimiter::direct(quota(ALL_UNKNOWN_TOKENS)),
            invalid_api_tokens: RateLimiter::keyed(quota(INVALID_API_TOKENS)),
            access_reviews: RateLimiter::keyed(quota(ACCESS_REVIEWS)),
            all_access_reviews: RateLimiter::direct(quota(ALL_ACCESS_REVIEWS)),
            valid_tokens: Cache::builder()
                .max_capacity(MAX_VALID_TOKENS)
                .time_to_idle(VALID_TOKEN_IDLE)
                .build(),
        }
    }

    /// Evicts the limiters of callers and addresses that have been idle.
    pub(super) fn evict_idle(&self) {
        self.calls.retain_recent();
        self.access_reviews.retain_recent();
        for addresses in [&self.unknown_tokens, &self.invalid_api_tokens] {
            addresses.retain_recent();
            addresses.shrink_to_fit();
        }
    }

    /// Counts a call against the caller's limit.
    pub(super) fn count_call(&self, caller: &str) -> Result<(), ApiError> {
        check_key(&self.calls, &caller.to_owned())
    }

    /// Counts a Kubernetes token that needs a `TokenReview`. Tokens that were recently valid are
    /// not counted.
    pub(super) async fn count_unknown_token(
        &self,
        token: &Fingerprint,
        from: IpAddr,
    ) -> Result<(), ApiError> {
        if self.valid_tokens.get(token).await.is_some() {
            return Ok(());
        }
        check_address(&self.unknown_tokens, from)?;
        check_global(&self.all_unknown_tokens)
    }

    /// Records whether a Kubernetes token was valid.
    pub(super) async fn record_token_validity(&self, token: Fingerprint, good: bool) {
        if good {
            self.valid_tokens.insert(token, ()).await;
        } else {
            self.valid_tokens.invalidate(&token).await;
        }
    }

    /// Counts an invalid API token.
    pub(super) fn count_invalid_api_token(&self, from: IpAddr) -> Result<(), ApiError> {
        check_address(&self.invalid_api_tokens, from)
    }

    /// Counts a `SubjectAccessReview` for a caller.
    pub(super) fn count_access_review(&self, caller: &str) -> Result<(), ApiError> {
        check_key(&self.access_reviews, &caller.to_owned())?;
        check_global(&self.all_access_reviews)
    }
}

fn check_address(limiter: &DefaultKeyedRateLimiter<IpAddr>, from: IpAddr) -> Result<(), ApiError> {
    let from = client_network(from);
    // Bounds the memory that a flood from many addresses can use.
    if limiter.len() >= MAX_ADDRESSES { Ok(()) } else { check_key(limiter, &from) }
}

fn check_key<K>(limiter: &DefaultKeyedRateLimiter<K>, key: &K) -> Result<(), ApiError>
where
    K: std::hash::Hash + Eq + Clone,
{
    limiter
        .check_key(key)
        .map_err(|refused: NotUntil<_>| too_many(refused.wait_time_from(limiter.clock().now())))
}

fn check_global(limiter: &DefaultDirectRateLimiter) -> Result<(), ApiError> {
    limiter.check().map_err(|refused| too_many(refused.wait_time_from(limiter.clock().now())))
}

fn too_many(wait: Duration) -> ApiError {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    ApiError::retry_after(
        StatusCode::TOO_MANY_REQUESTS,
        format!("rate limit exceeded: retry in {seconds} s"),
        seconds,
    )
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Instant};

    use super::*;
    use crate::api::auth::fingerprint::FingerprintKey;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Asserts that a limit let at least its burst pass, and at most what it permits in the time
    /// since `begun`.
    fn assert_limited(passed: u32, (rate, burst): (u32, u32), begun: Instant) {
        let seconds = u32::try_from(begun.elapsed().as_secs() + 1).unwrap();
        let permitted = burst..=burst + rate * seconds;
        assert!(permitted.contains(&passed), "{passed} passed, expected {permitted:?}");
    }

    #[test]
    fn calls_are_limited_by_caller() {
        let limits = AuthLimits::new(5);
        let begun = Instant::now();
        let (passed, refused): (Vec<_>, Vec<_>) =
            (0..1000).map(|_| limits.count_call("token:one")).partition(Result::is_ok);
        assert_limited(u32::try_from(passed.len()).unwrap(), (5, 10), begun);
        assert!(refused.into_iter().all(|refused| {
            refused.is_err_and(|error| error.code == StatusCode::TOO_MANY_REQUESTS)
        }));
        assert!(limits.count_call("token:other").is_ok());
    }

    /// Behind an untrusted proxy all callers have the same address.
    #[tokio::test]
    async fn recently_valid_tokens_are_exempt_from_the_limit_of_their_address() {
        let (limits, prints) = (AuthLimits::new(5), FingerprintKey::default());
        let (known, unknown) = (prints.fingerprint(b"known"), prints.fingerprint(b"unknown"));
        limits.record_token_validity(known, true).await;
        let (begun, mut taken) = (Instant::now(), 0);
        while limits.count_unknown_token(&unknown, HERE).await.is_ok() {
            taken += 1;
            assert!(taken < 100 * UNKNOWN_TOKENS.1, "the limit is not enforced");
        }
        assert_limited(taken, UNKNOWN_TOKENS, begun);
        while limits.count_invalid_api_token(HERE).is_ok() {}
        assert!(
            limits.count_unknown_token(&known, HERE).await.is_ok(),
            "a recently valid token is exempt"
        );
        let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
        assert!(
            limits.count_unknown_token(&unknown, elsewhere).await.is_ok(),
            "each address has its own limit"
        );
        limits.record_token_validity(known, false).await;
        while limits.count_unknown_token(&unknown, HERE).await.is_ok() {}
        assert!(
            limits.count_unknown_token(&known, HERE).await.is_err(),
            "a token that is no longer valid is limited"
        );
    }

    #[tokio::test]
    async fn all_addresses_together_have_a_limit() {
        let (limits, token) = (AuthLimits::new(5), FingerprintKey::default().fingerprint(b"x"));
        let (begun, mut passed) = (Instant::now(), 0);
        for address in 0..20_000_u32 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(address));
            passed += u32::from(limits.count_unknown_token(&token, from).await.is_ok());
        }
        assert_limited(passed, ALL_UNKNOWN_TOKENS, begun);
        limits.evict_idle();
    }

    #[test]
    fn addresses_of_an_ipv6_network_share_a_limit() {
        let of = |text: &str| client_network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
