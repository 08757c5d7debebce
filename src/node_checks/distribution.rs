//! Anonymous client for registries, by the OCI distribution specification.
//!
//! The author of a task chooses the registry, and the registry chooses redirects and the token
//! service. The egress policy checks all of these addresses when connecting, responses have a
//! maximum size, and no error repeats a response.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use http_auth::parse_challenges;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use prewarmer_core::image::ImageRef;

use crate::egress::{self, EgressPolicy, RequestFailure};

/// Timeout of a request, including its body.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a manifest, in bytes. The distribution specification requires registries to
/// accept at least 4 MiB.
const MAX_MANIFEST: usize = 4 << 20;
/// Size in bytes above which only a few manifests are read concurrently. An index of 20
/// platforms has 10 KiB.
const LARGE_MANIFEST: usize = 256 << 10;
/// Number of large manifests read concurrently. Since buffers double as they grow, two take at most
/// 16 MiB.
const CONCURRENT_LARGE_MANIFESTS: usize = 2;
/// Maximum size of a token response, in bytes. Tokens of large registries have 2 to 5 KiB.
const MAX_TOKEN_RESPONSE: usize = 64 << 10;
/// Maximum length of a token, a challenge and a service name, in bytes: the limit of HTTP servers
/// for a header.
const MAX_HEADER: usize = 16 << 10;
/// Maximum number of redirects per request.
const MAX_REDIRECTS: usize = 3;
/// Accepted media types: the four kinds of manifests that contain sizes.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";
/// Registry host of `docker.io`.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Error of an image lookup. The texts are constant: no content of a response is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// No response was received.
    #[error("{0}")]
    Request(RequestFailure),
    /// The image does not exist.
    #[error("image not found in the registry (HTTP 404)")]
    NotFound,
    /// The registry requires credentials.
    #[error("the registry requires credentials (HTTP {0})")]
    Credentials(u16),
    /// The registry responded with another status.
    #[error("the registry responded with HTTP {0}")]
    Status(u16),
    /// The token service responded with an error status.
    #[error("the registry's token service responded with HTTP {0}")]
    TokenStatus(u16),
    /// The token service returned no usable token.
    #[error("the registry's token service: {0}")]
    Token(&'static str),
    /// Too many redirects.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// A redirect or the token service uses plain HTTP, or its URL contains user information.
    #[error("the registry refers to a URL that is not https or that contains user information")]
    InvalidUrl,
    /// The response cannot be parsed.
    #[error("the response is not an image manifest")]
    Malformed,
}

impl LookupError {
    /// Returns the label value for metrics.
    #[must_use]
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Request(cause) => cause.metric_label(),
            Self::NotFound => "not_found",
            Self::Credentials(_) => "credentials",
            Self::Status(_) => "status",
            Self::TokenStatus(_) | Self::Token(_) => "token",
            Self::Redirects => "redirects",
            Self::InvalidUrl => "reference",
            Self::Malformed => "malformed",
        }
    }

    /// Reports whether the host did not respond at all. Lookups of its other images are then
    /// skipped for a while.
    #[must_use]
    pub(crate) fn is_host_unreachable(&self) -> bool {
        matches!(self, Self::Request(cause) if !matches!(cause, RequestFailure::TooLarge(_)))
    }
}

impl From<RequestFailure> for LookupError {
    fn from(cause: RequestFailure) -> Self {
        Self::Request(cause)
    }
}

/// Used fields of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RegistryManifest {
    /// Manifest for one platform: compressed size of its layers, in bytes.
    Image(u64),
    /// Index of several platforms.
    Index(Vec<IndexEntry>),
}

/// Entry of an index.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct IndexEntry {
    pub(super) digest: String,
    #[serde(default)]
    pub(super) platform: Option<ImagePlatform>,
}

/// Platform of an entry.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ImagePlatform {
    pub(super) architecture: String,
    pub(super) os: String,
}

/// Addresses that requests may connect to. A server on the public internet may not refer to an
/// address that only the allow list permits: its operator need not be trusted in that network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PermittedNetworks {
    Public,
    Allowed,
}

/// State shared by the requests for one image.
#[derive(Debug, Default)]
pub(super) struct RegistrySession {
    token: Option<HeaderValue>,
}

/// Client for registries.
pub(super) struct DistributionClient {
    policy: EgressPolicy,
    public: Client,
    allowed: Client,
    /// Client for registries with plain HTTP that the operator has configured; any address is
    /// permitted.
    plain_http: Client,
    plain_registries: HashSet<String>,
    large_permits: Semaphore,
}

impl DistributionClient {
    /// Creates a client. `plain`: registries as `HOST[:PORT]` that use plain HTTP at any address.
    /// The error is that of the HTTP client.
    pub(super) fn new(policy: &EgressPolicy, plain: &[String]) -> reqwest::Result<Self> {
        Ok(Self {
            policy: policy.clone(),
            public: egress::http_client(&policy.public_only(), TIMEOUT)?,
            allowed: egress::http_client(policy, TIMEOUT)?,
            plain_http: egress::http_client(&EgressPolicy::unrestricted(), TIMEOUT)?,
            plain_registries: plain.iter().map(|host| host.to_lowercase()).collect(),
            large_permits: Semaphore::new(CONCURRENT_LARGE_MANIFESTS),
        })
    }

    /// Fetches the manifest of an image, by its tag or digest or by the digest `platform` of an
    /// index entry.
    pub(super) async fn manifest(
        &self,
        image: &ImageRef,
        platform: Option<&str>,
        session: &mut RegistrySession,
    ) -> Result<RegistryManifest, LookupError> {
        let reference = platform.or(image.digest()).or(image.tag()).unwrap_or("latest");
        if reference.contains(':') && !is_digest(reference) {
            return Err(LookupError::Malformed);
        }
        let url = self.manifest_url(image, reference).ok_or(LookupError::InvalidUrl)?;
        let (mut response, reach) = self
            .send_following_redirects(&url, session.token.as_ref(), PermittedNetworks::Allowed)
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED && session.token.is_none() {
            let token = self.fetch_token(response.headers(), image.repository(), reach).await?;
            drop(response);
            response = self
                .send_following_redirects(&url, Some(&token), PermittedNetworks::Allowed)
                .await?
                .0;
            session.token = Some(token);
        }
        match response.status() {
            StatusCode::OK => parse_manifest(&self.read_manifest(response).await?),
            StatusCode::NOT_FOUND => Err(LookupError::NotFound),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(LookupError::Credentials(status.as_u16()))
            }
            status => Err(LookupError::Status(status.as_u16())),
        }
    }

    fn manifest_url(&self, image: &ImageRef, reference: &str) -> Option<Url> {
        let registry = image.registry().to_lowercase();
        let host = if registry == DOCKER_HUB.0 { DOCKER_HUB.1 } else { &registry };
        let scheme = if self.plain_registries.contains(host) { "http" } else { "https" };
        format!("{scheme}://{host}/v2/{}/manifests/{reference}", image.repository()).parse().ok()
    }

    /// Fetches an anonymous token from the registry's token service, by the token specification of
    /// the distribution project.
    async fn fetch_token(
        &self,
        headers: &HeaderMap,
        repository: &str,
        reach: PermittedNetworks,
    ) -> Result<HeaderValue, LookupError> {
        let challenge = bearer_challenge(headers).ok_or(LookupError::Credentials(401))?;
        let mut url = challenge.realm;
        if let Some(service) = &challenge.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
        let (mut response, _) = self.send_following_redirects(&url, None, reach).await?;
        if response.status() != StatusCode::OK {
            return Err(LookupError::TokenStatus(response.status().as_u16()));
        }
        let body = egress::read_limited(&mut response, MAX_TOKEN_RESPONSE).await?;
        let answer: TokenResponse = serde_json::from_slice(&body)
            .map_err(|_| LookupError::Token("invalid token response"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty() && token.len() <= MAX_HEADER);
        let header = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut header = header.ok_or(LookupError::Token("invalid token response"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Sends a request and follows redirects. The token is sent only to its own origin.
    async fn send_following_redirects(
        &self,
        url: &Url,
        token: Option<&HeaderValue>,
        mut reach: PermittedNetworks,
    ) -> Result<(Response, PermittedNetworks), LookupError> {
        let (origin, mut url) = (url.origin(), url.clone());
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client(&url, reach)?.get(url.clone()).header(ACCEPT, ACCEPTED);
            if let Some(token) = token.filter(|_| url.origin() == origin) {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let response =
                request.send().await.map_err(|error| egress::classify_failure(&error))?;
            // The connected address decides, since the name may resolve to another address at
            // another time.
            if !self.is_plain_registry(&url)
                && response.remote_addr().is_none_or(|peer| self.is_public(peer))
            {
                reach = PermittedNetworks::Public;
            }
            if !is_redirect(response.status()) {
                return Ok((response, reach));
            }
            let location =
                response.headers().get(LOCATION).filter(|value| value.len() <= MAX_HEADER);
            let next =
                location.and_then(|value| value.to_str().ok()).and_then(|text| url.join(text).ok());
            url = next.ok_or(LookupError::Status(response.status().as_u16()))?;
        }
        Err(LookupError::Redirects)
    }

    /// Returns the client for a URL. The scheme must be https except for registries configured with
    /// plain HTTP.
    fn client(&self, url: &Url, reach: PermittedNetworks) -> Result<&Client, LookupError> {
        let names_user = !url.username().is_empty() || url.password().is_some();
        if names_user {
            return Err(LookupError::InvalidUrl);
        }
        if reach == PermittedNetworks::Allowed && self.is_plain_registry(url) {
            return Ok(&self.plain_http);
        }
        if url.scheme() != "https" {
            return Err(LookupError::InvalidUrl);
        }
        match reach {
            PermittedNetworks::Public => {
                self.policy.public_only().check_url(url).map_err(RequestFailure::Denied)?;
                Ok(&self.public)
            }
            PermittedNetworks::Allowed => {
                self.policy.check_url(url).map_err(RequestFailure::Denied)?;
                Ok(&self.allowed)
            }
        }
    }

    fn is_public(&self, peer: SocketAddr) -> bool {
        self.policy.public_only().check(peer.ip()).is_ok()
    }

    /// Reports whether the URL is that of a registry configured with plain HTTP.
    fn is_plain_registry(&self, url: &Url) -> bool {
        let Some(host) = url.host_str().filter(|_| url.scheme() == "http") else { return false };
        let port = url.port_or_known_default().unwrap_or(80);
        self.plain_registries.contains(&format!("{host}:{port}"))
            || (port == 80 && self.plain_registries.contains(host))
    }

    /// Reads a manifest. A large manifest waits for a permit.
    async fn read_manifest(&self, mut response: Response) -> Result<Vec<u8>, LookupError> {
        let (mut body, mut turn) = (Vec::new(), None);
        while let Some(chunk) =
            response.chunk().await.map_err(|error| egress::classify_failure(&error))?
        {
            let size = chunk.len().saturating_add(body.len());
            if size > MAX_MANIFEST {
                return Err(RequestFailure::TooLarge(MAX_MANIFEST).into());
            }
            if size > LARGE_MANIFEST && turn.is_none() {
                // The semaphore is never closed.
                turn = self.large_permits.acquire().await.ok();
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
}

struct TokenChallenge {
    realm: Url,
    service: Option<String>,
}

/// Returns the first usable challenge of the scheme `Bearer`.
fn bearer_challenge(headers: &HeaderMap) -> Option<TokenChallenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter(|value| value.len() <= MAX_HEADER);
    texts.filter_map(|value| parse_challenges(value.to_str().ok()?).ok()).flatten().find_map(
        |challenge| {
            let bearer = challenge.scheme.eq_ignore_ascii_case("bearer");
            let value = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let realm = value("realm").filter(|_| bearer)?.parse().ok()?;
            Some(TokenChallenge { realm, service: value("service") })
        },
    )
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Reports whether the text is `ALGORITHM:HEX`. It is inserted into a URL path.
fn is_digest(text: &str) -> bool {
    let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.split_once(':') {
        Some(("sha256", digits)) => digits.len() == 64 && hex(digits),
        Some(("sha512", digits)) => digits.len() == 128 && hex(digits),
        _ => false,
    }
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(default, deserialize_with = "bounded::sum")]
    layers: Option<u64>,
    #[serde(default, deserialize_with = "bounded::entries")]
    manifests: Option<Vec<IndexEntry>>,
}

fn parse_manifest(body: &[u8]) -> Result<RegistryManifest, LookupError> {
    let raw: RawManifest = serde_json::from_slice(body).map_err(|_| LookupError::Malformed)?;
    match raw {
        RawManifest { manifests: Some(entries), .. } => Ok(RegistryManifest::Index(entries)),
        RawManifest { layers: Some(size), .. } => Ok(RegistryManifest::Image(size)),
        RawManifest { .. } => Err(LookupError::Malformed),
    }
}

/// Lists that are reduced during deserialization: 4 MiB of JSON can have 300,000 entries, which
/// take 100 bytes each in memory.
mod bounded {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserialize, Deserializer,
        de::{IgnoredAny, SeqAccess, Visitor},
    };

    use super::IndexEntry;

    /// Maximum number of entries read from an index. Images for 20 platforms with attestations have
    /// 40.
    const MAX_ENTRIES: usize = 1000;

    #[derive(Deserialize)]
    struct Layer {
        size: u64,
    }

    struct FoldVisitor<T, U, F>(U, F, PhantomData<T>);

    impl<'de, T: Deserialize<'de>, U, F: FnMut(&mut U, T) -> bool> Visitor<'de>
        for FoldVisitor<T, U, F>
    {
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

    /// Deserializes layers to the sum of their sizes.
    pub(super) fn sum<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let add = |sum: &mut u64, layer: Layer| {
            *sum = sum.saturating_add(layer.size);
            true
        };
        from.deserialize_seq(FoldVisitor(0, add, PhantomData)).map(Some)
    }

    /// Deserializes the first entries of an index.
    pub(super) fn entries<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<IndexEntry>>, D::Error> {
        let add = |entries: &mut Vec<IndexEntry>, entry: IndexEntry| {
            entries.push(entry);
            entries.len() < MAX_ENTRIES
        };
        from.deserialize_seq(FoldVisitor(Vec::new(), add, PhantomData)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        r#"{"layers": [{"size": 3}, {"size": 4, "digest": "x"}]}"#,
        Ok(RegistryManifest::Image(7))
    )]
    #[case(
        r#"{"layers": [{"size": 18446744073709551615}, {"size": 4}]}"#,
        Ok(RegistryManifest::Image(u64::MAX))
    )]
    #[case(r#"{"layers": [{"size": -1}]}"#, Err(LookupError::Malformed))]
    #[case(r#"{"schemaVersion": 1, "fsLayers": []}"#, Err(LookupError::Malformed))]
    #[case(r#"{"manifests": "many"}"#, Err(LookupError::Malformed))]
    #[case("[]", Err(LookupError::Malformed))]
    fn parses_manifests(
        #[case] body: &str,
        #[case] expected: Result<RegistryManifest, LookupError>,
    ) {
        assert_eq!(parse_manifest(body.as_bytes()), expected);
    }

    #[test]
    fn index_entries_are_limited() {
        let entry = r#"{"digest":"x","platform":{"architecture":"amd64","os":"linux"}}"#;
        let body = format!("{{\"manifests\":[{}]}}", vec![entry; 50_000].join(","));
        let Ok(RegistryManifest::Index(entries)) = parse_manifest(body.as_bytes()) else {
            panic!("no index")
        };
        assert_eq!(entries.len(), 1000);
    }

    #[rstest]
    #[case(&format!("sha256:{}", "a".repeat(64)), true)]
    #[case("sha256:../../../admin", false)]
    #[case(&format!("md5:{}", "a".repeat(32)), false)]
    fn validates_digests(#[case] text: &str, #[case] good: bool) {
        assert_eq!(is_digest(text), good);
    }

    #[test]
    fn only_bearer_challenges_are_used() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(text))])
        };
        let found = bearer_challenge(&headers(
            r#"Basic realm="x", Bearer realm="https://auth.example.com/t",service="s""#,
        ));
        let found = found.unwrap();
        assert_eq!(
            (found.realm.as_str(), found.service.as_deref()),
            ("https://auth.example.com/t", Some("s"))
        );
        assert!(bearer_challenge(&headers(r#"Basic realm="https://x.example/""#)).is_none());
        assert!(bearer_challenge(&headers(r#"Bearer realm="nonsense""#)).is_none());
        assert!(bearer_challenge(&headers("Bearer")).is_none());
    }
}
