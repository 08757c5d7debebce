//! Manifests from registries, by the distribution specification, without credentials.
//!
//! A task's author chooses the registry, and the registry chooses where it redirects to and which token service it names:
//! all of them are checked by [`Policy`] where they are connected to, what they send is bounded, and none of it is repeated.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use http_auth::parse_challenges;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    egress::{self, Cause, Policy},
    image::Reference,
};

/// Each request is answered within this time, its body included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest manifest that is read: the distribution specification asks registries to take at least 4 MiB.
const MAX_MANIFEST: usize = 4 << 20;
/// Manifests above this size are read [`LARGE_AT_ONCE`] at a time: an index of 20 platforms has 10 KiB.
const LARGE: usize = 256 << 10;
/// With buffers that double as they grow, 2 large manifests take at most 16 MiB.
const LARGE_AT_ONCE: usize = 2;
/// The largest answer of a token service: tokens of large registries have 2 to 5 KiB.
const MAX_TOKEN_ANSWER: usize = 64 << 10;
/// The longest token, challenge and name of a service: what HTTP servers accept as a header.
const MAX_HEADER: usize = 16 << 10;
/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 3;
/// What is asked for: the four kinds of manifests that tell sizes.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";
/// The host that answers for `docker.io`.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Why nothing is known of an image. The texts are fixed: nothing that the other side has sent is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no answer.
    #[error("{0}")]
    Request(Cause),
    /// There is no such image.
    #[error("the registry does not have the image (HTTP 404)")]
    NotFound,
    /// Not without credentials.
    #[error("the registry asks for credentials (HTTP {0})")]
    Credentials(u16),
    /// Another answer of the registry.
    #[error("the registry answered with HTTP {0}")]
    Status(u16),
    /// The token service gave no token.
    #[error("the registry's token service answered with HTTP {0}")]
    TokenStatus(u16),
    /// The token service is not to be used.
    #[error("the registry's token service: {0}")]
    Token(&'static str),
    /// Redirects without an end.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// A redirect, or a token service, by plain HTTP, or one that names a user.
    #[error("the registry refers to an address that is not https, or names a user")]
    Reference,
    /// The answer cannot be read.
    #[error("the answer is not a manifest of an image")]
    Malformed,
}

impl LookupError {
    /// One word for metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Request(cause) => cause.class(),
            Self::NotFound => "not_found",
            Self::Credentials(_) => "credentials",
            Self::Status(_) => "status",
            Self::TokenStatus(_) | Self::Token(_) => "token",
            Self::Redirects => "redirects",
            Self::Reference => "reference",
            Self::Malformed => "malformed",
        }
    }

    /// Whether the host did not answer at all, so that its other images are not asked for either for a while.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Request(cause) if !matches!(cause, Cause::TooLarge(_)))
    }
}

impl From<Cause> for LookupError {
    fn from(cause: Cause) -> Self {
        Self::Request(cause)
    }
}

/// A manifest, as far as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// Of an image for one platform: the compressed size of its layers.
    Image(u64),
    /// Of several.
    Index(Vec<Entry>),
}

/// One platform of an index.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Entry {
    pub(super) digest: String,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

/// What an entry is for.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

/// How far requests may reach. Servers of the public internet may not refer to anything that only an allow list allows: their
/// authors need not be in that network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    Allowed,
}

/// What is kept between the requests for one image.
#[derive(Debug, Default)]
pub(super) struct Session {
    token: Option<HeaderValue>,
}

/// Speaks to registries.
pub(super) struct Distribution {
    policy: Policy,
    public: Client,
    allowed: Client,
    /// For registries that the operator has named: wherever they are.
    named: Client,
    plain: HashSet<String>,
    large: Semaphore,
}

impl Distribution {
    /// `plain`: registries, as `HOST[:PORT]`, that speak plain HTTP and may be at any address. The error is the client's.
    pub(super) fn new(policy: &Policy, plain: &[String]) -> reqwest::Result<Self> {
        Ok(Self {
            policy: policy.clone(),
            public: egress::client(&policy.public_only(), TIMEOUT)?,
            allowed: egress::client(policy, TIMEOUT)?,
            named: egress::client(&Policy::unrestricted(), TIMEOUT)?,
            plain: plain.iter().map(|host| host.to_lowercase()).collect(),
            large: Semaphore::new(LARGE_AT_ONCE),
        })
    }

    /// Fetches the manifest of an image, by its own tag or digest, or by the digest of one of its platforms.
    pub(super) async fn manifest(
        &self,
        image: &Reference,
        platform: Option<&str>,
        session: &mut Session,
    ) -> Result<Manifest, LookupError> {
        let reference = platform.or(image.digest()).or(image.tag()).unwrap_or("latest");
        if reference.contains(':') && !is_digest(reference) {
            return Err(LookupError::Malformed);
        }
        let url = self.manifest_url(image, reference).ok_or(LookupError::Reference)?;
        let (mut response, reach) = self.follow(&url, session.token.as_ref(), Reach::Allowed).await?;
        if response.status() == StatusCode::UNAUTHORIZED && session.token.is_none() {
            let token = self.token(response.headers(), image.repository(), reach).await?;
            drop(response);
            response = self.follow(&url, Some(&token), Reach::Allowed).await?.0;
            session.token = Some(token);
        }
        match response.status() {
            StatusCode::OK => parse(&self.read(response).await?),
            StatusCode::NOT_FOUND => Err(LookupError::NotFound),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(LookupError::Credentials(status.as_u16()))
            }
            status => Err(LookupError::Status(status.as_u16())),
        }
    }

    fn manifest_url(&self, image: &Reference, reference: &str) -> Option<Url> {
        let registry = image.registry().to_lowercase();
        let host = if registry == DOCKER_HUB.0 { DOCKER_HUB.1 } else { &registry };
        let scheme = if self.plain.contains(host) { "http" } else { "https" };
        format!("{scheme}://{host}/v2/{}/manifests/{reference}", image.repository()).parse().ok()
    }

    /// Gets an anonymous token from the service that the registry names, by the distribution project's token specification.
    async fn token(&self, headers: &HeaderMap, repository: &str, reach: Reach) -> Result<HeaderValue, LookupError> {
        let challenge = challenge(headers).ok_or(LookupError::Credentials(401))?;
        let mut url = challenge.realm;
        if let Some(service) = &challenge.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
        let (mut response, _) = self.follow(&url, None, reach).await?;
        if response.status() != StatusCode::OK {
            return Err(LookupError::TokenStatus(response.status().as_u16()));
        }
        let body = egress::read_limited(&mut response, MAX_TOKEN_ANSWER).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| LookupError::Token("its answer is no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty() && token.len() <= MAX_HEADER);
        let header = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut header = header.ok_or(LookupError::Token("its answer is no token"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Sends a request, and follows redirects. The token goes to the origin that it is for, and to no other.
    async fn follow(
        &self,
        url: &Url,
        token: Option<&HeaderValue>,
        mut reach: Reach,
    ) -> Result<(Response, Reach), LookupError> {
        let (origin, mut url) = (url.origin(), url.clone());
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client(&url, reach)?.get(url.clone()).header(ACCEPT, ACCEPTED);
            if let Some(token) = token.filter(|_| url.origin() == origin) {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let response = request.send().await.map_err(|error| egress::cause(&error))?;
            // What was connected to, not what a name resolves to at another time.
            if !self.is_named(&url) && response.remote_addr().is_none_or(|peer| self.is_public(peer)) {
                reach = Reach::Public;
            }
            if !is_redirect(response.status()) {
                return Ok((response, reach));
            }
            let location = response.headers().get(LOCATION).filter(|value| value.len() <= MAX_HEADER);
            let next = location.and_then(|value| value.to_str().ok()).and_then(|text| url.join(text).ok());
            url = next.ok_or(LookupError::Status(response.status().as_u16()))?;
        }
        Err(LookupError::Redirects)
    }

    /// The client for a URL, which has to be https, but for registries that are named.
    fn client(&self, url: &Url, reach: Reach) -> Result<&Client, LookupError> {
        let names_user = !url.username().is_empty() || url.password().is_some();
        if names_user {
            return Err(LookupError::Reference);
        }
        if reach == Reach::Allowed && self.is_named(url) {
            return Ok(&self.named);
        }
        if url.scheme() != "https" {
            return Err(LookupError::Reference);
        }
        match reach {
            Reach::Public => {
                self.policy.public_only().check_url(url).map_err(Cause::Denied)?;
                Ok(&self.public)
            }
            Reach::Allowed => {
                self.policy.check_url(url).map_err(Cause::Denied)?;
                Ok(&self.allowed)
            }
        }
    }

    fn is_public(&self, peer: SocketAddr) -> bool {
        self.policy.public_only().check(peer.ip()).is_ok()
    }

    /// Whether the URL is one of a registry that the operator has named as one of plain HTTP.
    fn is_named(&self, url: &Url) -> bool {
        let Some(host) = url.host_str().filter(|_| url.scheme() == "http") else { return false };
        let port = url.port_or_known_default().unwrap_or(80);
        self.plain.contains(&format!("{host}:{port}")) || (port == 80 && self.plain.contains(host))
    }

    /// Reads a manifest. Only what is large waits for its turn.
    async fn read(&self, mut response: Response) -> Result<Vec<u8>, LookupError> {
        let (mut body, mut turn) = (Vec::new(), None);
        while let Some(chunk) = response.chunk().await.map_err(|error| egress::cause(&error))? {
            let size = chunk.len().saturating_add(body.len());
            if size > MAX_MANIFEST {
                return Err(Cause::TooLarge(MAX_MANIFEST).into());
            }
            if size > LARGE && turn.is_none() {
                // Nobody closes it.
                turn = self.large.acquire().await.ok();
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

struct Challenge {
    realm: Url,
    service: Option<String>,
}

/// The challenge of the scheme `Bearer`, where there is one that can be used.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter(|value| value.len() <= MAX_HEADER);
    texts.filter_map(|value| parse_challenges(value.to_str().ok()?).ok()).flatten().find_map(|challenge| {
        let bearer = challenge.scheme.eq_ignore_ascii_case("bearer");
        let value = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let realm = value("realm").filter(|_| bearer)?.parse().ok()?;
        Some(Challenge { realm, service: value("service") })
    })
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// `ALGORITHM:HEX`, for it becomes a part of a path.
fn is_digest(text: &str) -> bool {
    let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.split_once(':') {
        Some(("sha256", digits)) => digits.len() == 64 && hex(digits),
        Some(("sha512", digits)) => digits.len() == 128 && hex(digits),
        _ => false,
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "bounded::sum")]
    layers: Option<u64>,
    #[serde(default, deserialize_with = "bounded::entries")]
    manifests: Option<Vec<Entry>>,
}

fn parse(body: &[u8]) -> Result<Manifest, LookupError> {
    let raw: Raw = serde_json::from_slice(body).map_err(|_| LookupError::Malformed)?;
    match raw {
        Raw { manifests: Some(entries), .. } => Ok(Manifest::Index(entries)),
        Raw { layers: Some(size), .. } => Ok(Manifest::Image(size)),
        Raw { .. } => Err(LookupError::Malformed),
    }
}

/// Lists out of which no more is kept than is needed: 4 MiB of JSON can have 300,000 entries of 100 bytes each in memory.
mod bounded {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserialize, Deserializer,
        de::{IgnoredAny, SeqAccess, Visitor},
    };

    use super::Entry;

    /// Entries of an index that are read: images for 20 platforms with attestations have 40.
    const MAX_ENTRIES: usize = 1000;

    #[derive(Deserialize)]
    struct Layer {
        size: u64,
    }

    struct Fold<T, U, F>(U, F, PhantomData<T>);

    impl<'de, T: Deserialize<'de>, U, F: FnMut(&mut U, T) -> bool> Visitor<'de> for Fold<T, U, F> {
        type Value = U;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<U, A::Error> {
            while let Some(item) = list.next_element::<T>()? {
                if !(self.1)(&mut self.0, item) {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    break;
                }
            }
            Ok(self.0)
        }
    }

    /// The sum of the sizes of all layers.
    pub(super) fn sum<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let add = |sum: &mut u64, layer: Layer| {
            *sum = sum.saturating_add(layer.size);
            true
        };
        from.deserialize_seq(Fold(0, add, PhantomData)).map(Some)
    }

    /// The first entries of an index.
    pub(super) fn entries<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Entry>>, D::Error> {
        let add = |entries: &mut Vec<Entry>, entry: Entry| {
            entries.push(entry);
            entries.len() < MAX_ENTRIES
        };
        from.deserialize_seq(Fold(Vec::new(), add, PhantomData)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"layers": [{"size": 3}, {"size": 4, "digest": "x"}]}"#, Ok(Manifest::Image(7)))]
    #[case(r#"{"layers": [{"size": 18446744073709551615}, {"size": 4}]}"#, Ok(Manifest::Image(u64::MAX)))]
    #[case(r#"{"layers": [{"size": -1}]}"#, Err(LookupError::Malformed))]
    #[case(r#"{"schemaVersion": 1, "fsLayers": []}"#, Err(LookupError::Malformed))]
    #[case(r#"{"manifests": "many"}"#, Err(LookupError::Malformed))]
    #[case("[]", Err(LookupError::Malformed))]
    fn manifests(#[case] body: &str, #[case] expected: Result<Manifest, LookupError>) {
        assert_eq!(parse(body.as_bytes()), expected);
    }

    #[test]
    fn an_index_of_very_many_entries_is_cut() {
        let entry = r#"{"digest":"x","platform":{"architecture":"amd64","os":"linux"}}"#;
        let body = format!("{{\"manifests\":[{}]}}", vec![entry; 50_000].join(","));
        let Ok(Manifest::Index(entries)) = parse(body.as_bytes()) else { panic!("no index") };
        assert_eq!(entries.len(), 1000);
    }

    #[rstest]
    #[case(&format!("sha256:{}", "a".repeat(64)), true)]
    #[case("sha256:../../../admin", false)]
    #[case(&format!("md5:{}", "a".repeat(32)), false)]
    fn digests(#[case] text: &str, #[case] good: bool) {
        assert_eq!(is_digest(text), good);
    }

    #[test]
    fn only_the_challenge_of_a_token_service_counts() {
        let headers = |text: &'static str| HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(text))]);
        let found = challenge(&headers(r#"Basic realm="x", Bearer realm="https://auth.example.com/t",service="s""#));
        let found = found.unwrap();
        assert_eq!((found.realm.as_str(), found.service.as_deref()), ("https://auth.example.com/t", Some("s")));
        assert!(challenge(&headers(r#"Basic realm="https://x.example/""#)).is_none());
        assert!(challenge(&headers(r#"Bearer realm="nonsense""#)).is_none());
        assert!(challenge(&headers("Bearer")).is_none());
    }
}
