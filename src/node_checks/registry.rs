//! Sizes of images by platform, from their registries.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prewarmer_core::image::ImageRef;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    distribution::{DistributionClient, LookupError, RegistryManifest, RegistrySession},
    metrics::NodeCheckMetrics,
};
use crate::egress::{EgressPolicy, RequestFailure};

/// Time limit for all requests for one image.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Lifetime of a result. A tag that moves changes the image's size little.
const SIZES_TTL: Duration = Duration::from_secs(600);
/// Time for which a host that did not respond is not queried again.
const UNREACHABLE_TTL: Duration = Duration::from_secs(30);
/// Maximum number of entries in each cache; a full cache is cleared.
const MAX_ENTRIES: usize = 10_000;
/// Maximum number of concurrent lookups of all tasks: 4 for each of the 10 tasks that run by
/// default. With at most 256 KiB each, and 16 MiB for large manifests, they take 26 MiB.
const MAX_CONCURRENT_LOOKUPS: usize = 40;
/// Platforms whose size is fetched; clusters have no other kinds of Linux nodes.
const ARCHITECTURES: [&str; 6] = ["amd64", "arm64", "arm", "ppc64le", "s390x", "riscv64"];

/// Sizes of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageSizes {
    /// Compressed size in bytes by Linux architecture. The key is empty if the image does not
    /// specify its architecture.
    pub sizes: BTreeMap<String, u64>,
}

impl ImageSizes {
    /// Returns the compressed size for an architecture, or `None` if the image does not support it.
    /// An empty architecture (not reported by the node) returns the largest size.
    #[must_use]
    pub(crate) fn size_on(&self, architecture: &str) -> Option<u64> {
        if architecture.is_empty() {
            return self.sizes.values().max().copied();
        }
        self.sizes.get(architecture).or_else(|| self.sizes.get("")).copied()
    }
}

/// Anonymous image lookups with caches. Pull credentials of namespaces are not used.
pub(crate) struct ImageSizeLookup {
    distribution: DistributionClient,
    metrics: NodeCheckMetrics,
    permits: Semaphore,
    sizes: Mutex<HashMap<String, (ImageSizes, Instant)>>,
    unreachable: Mutex<HashMap<String, (LookupError, Instant)>>,
}

impl ImageSizeLookup {
    /// Creates a client. `plain`: hosts that use plain HTTP. The error is that of the HTTP client.
    pub(crate) fn new(
        policy: &EgressPolicy,
        plain: &[String],
        metrics: NodeCheckMetrics,
    ) -> reqwest::Result<Self> {
        Ok(Self {
            distribution: DistributionClient::new(policy, plain)?,
            metrics,
            permits: Semaphore::new(MAX_CONCURRENT_LOOKUPS),
            sizes: Mutex::default(),
            unreachable: Mutex::default(),
        })
    }

    /// Looks up an image. The error states why its sizes are unknown.
    pub(crate) async fn look_up(&self, image: &ImageRef) -> Result<ImageSizes, LookupError> {
        let name = image.normalized();
        if let Some(facts) = cached(&self.sizes, name, SIZES_TTL) {
            return Ok(facts);
        }
        // The semaphore is never closed.
        let _slot = self.permits.acquire().await.ok();
        if let Some(error) = cached(&self.unreachable, image.registry(), UNREACHABLE_TTL) {
            return Err(error);
        }
        let asked = tokio::time::timeout(TIMEOUT, self.fetch(image)).await;
        let found = asked.unwrap_or(Err(LookupError::Request(RequestFailure::TimedOut)));
        let result = found.as_ref().map_or_else(LookupError::class, |_| "found");
        self.metrics.registry_lookups.with_label_values(&[result]).inc();
        match &found {
            Ok(facts) => store(&self.sizes, name, facts.clone()),
            Err(error) if error.is_host_unreachable() => {
                store(&self.unreachable, image.registry(), error.clone());
            }
            Err(_) => {}
        }
        found
    }

    async fn fetch(&self, image: &ImageRef) -> Result<ImageSizes, LookupError> {
        let mut session = RegistrySession::default();
        let entries = match self.distribution.manifest(image, None, &mut session).await? {
            RegistryManifest::Image(size) => {
                return Ok(ImageSizes { sizes: [(String::new(), size)].into() });
            }
            RegistryManifest::Index(entries) => entries,
        };
        let mut facts = ImageSizes::default();
        for entry in entries {
            let Some(platform) = entry.platform else { continue };
            let architecture = platform.architecture;
            if platform.os != "linux"
                || !ARCHITECTURES.contains(&architecture.as_str())
                || facts.sizes.contains_key(&architecture)
            {
                continue;
            }
            if let RegistryManifest::Image(size) =
                self.distribution.manifest(image, Some(&entry.digest), &mut session).await?
            {
                facts.sizes.insert(architecture, size);
            }
        }
        Ok(facts)
    }
}

type TtlCache<T> = Mutex<HashMap<String, (T, Instant)>>;

fn cached<T: Clone>(memory: &TtlCache<T>, key: &str, lifetime: Duration) -> Option<T> {
    let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    memory.get(key).filter(|(_, at)| at.elapsed() < lifetime).map(|(value, _)| value.clone())
}

fn store<T>(memory: &TtlCache<T>, key: &str, value: T) {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    if memory.len() >= MAX_ENTRIES {
        memory.clear();
    }
    memory.insert(key.to_owned(), (value, Instant::now()));
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc, time::Instant as Clock};

    use axum::{
        Router,
        body::{Body, Bytes},
        http::{
            HeaderMap, StatusCode, Uri,
            header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE},
        },
        response::{IntoResponse, Response},
        routing::get,
    };
    use futures::stream;
    use prometheus::Registry;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    const SECRET: &str = "SECRET";

    #[test]
    fn sizes_by_architecture() {
        let both =
            ImageSizes { sizes: [("amd64".to_owned(), 10), ("arm64".to_owned(), 20)].into() };
        assert_eq!(both.size_on("amd64"), Some(10));
        assert_eq!(both.size_on("s390x"), None);
        assert_eq!(both.size_on(""), Some(20));
        let silent = ImageSizes { sizes: [(String::new(), 7)].into() };
        assert_eq!(silent.size_on("arm64"), Some(7));
    }

    type RecordedRequests = Arc<Mutex<Vec<(Uri, HeaderMap)>>>;

    /// Starts a server that answers each path with `answer`. Returns its address and the requests
    /// that it received.
    async fn start_server(
        answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static,
    ) -> (String, RecordedRequests) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = RecordedRequests::default();
        let router = Router::new().fallback(get({
            let requests = Arc::clone(&requests);
            async move |uri: Uri, headers: HeaderMap| {
                requests.lock().unwrap().push((uri.clone(), headers));
                answer(uri.path())
            }
        }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (host, requests)
    }

    fn requested_uris(requests: &RecordedRequests) -> Vec<String> {
        requests.lock().unwrap().iter().map(|(uri, _)| uri.to_string()).collect()
    }

    /// Looks up an image as the service does: `plain` is `--plain-http-registries`, and no internal
    /// network is allowed.
    async fn look_up(plain: &[&str], image: &str) -> Result<ImageSizes, LookupError> {
        let plain: Vec<String> = plain.iter().map(|host| (*host).to_owned()).collect();
        let metrics = NodeCheckMetrics::register(&Registry::new()).unwrap();
        let registries = ImageSizeLookup::new(&EgressPolicy::default(), &plain, metrics).unwrap();
        registries.look_up(&image.parse().unwrap()).await
    }

    fn redirect_to(place: &str) -> Response {
        (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, place.to_owned())]).into_response()
    }

    fn challenge(realm: &str) -> Response {
        let header = format!("Bearer realm=\"{realm}\",service=\"x\"");
        (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, header)], SECRET).into_response()
    }

    fn endless() -> Response {
        let chunks = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 4096])));
        Body::from_stream(chunks).into_response()
    }

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    /// A registry can neither redirect to an internal service nor name one as its token service: no
    /// request is sent there. No response is repeated in an error.
    #[tokio::test]
    async fn registries_cannot_reach_internal_services_and_bodies_are_not_repeated() {
        let (inside, requests) = start_server(|_| {
            (StatusCode::INTERNAL_SERVER_ERROR, SECRET.repeat(350_000)).into_response()
        })
        .await;
        for scheme in ["http", "https"] {
            let place = format!("{scheme}://{inside}/admin");
            let (redirects, _) = start_server({
                let place = place.clone();
                move |_| redirect_to(&place)
            })
            .await;
            let (realm, _) = start_server(move |_| challenge(&place)).await;
            for host in [redirects, realm] {
                let error =
                    look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err().to_string();
                assert!(error.len() <= 200 && !error.contains(SECRET), "{error}");
            }
        }
        let body = look_up(&[&inside], &format!("{inside}/x:1")).await.unwrap_err();
        assert_eq!(body, LookupError::Status(500));
        assert_eq!(
            requested_uris(&requests),
            ["/v2/x/manifests/1"],
            "only the registry of the image's name is contacted"
        );
    }

    #[tokio::test]
    async fn internal_registry_is_denied_unless_allowed() {
        let (inside, requests) = start_server(|_| StatusCode::OK.into_response()).await;
        let error = look_up(&[], &format!("{inside}/x:1")).await.unwrap_err();
        assert_eq!(error.class(), "denied");
        for image in [
            "169.254.169.254/x:1",
            "168.63.129.16/x:1",
            "registry.shop.svc/x:1",
            "registry:5000/x:1",
        ] {
            assert_eq!(look_up(&[], image).await.unwrap_err().class(), "denied", "{image}");
        }
        assert!(requested_uris(&requests).is_empty());
    }

    #[tokio::test]
    async fn manifest_size_is_limited() {
        let (host, _) = start_server(|_| endless()).await;
        let error = look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err();
        assert_eq!(error, LookupError::Request(RequestFailure::TooLarge(4 << 20)));
    }

    #[tokio::test]
    async fn token_response_size_is_limited() {
        let (host, _) = start_server(|_| endless()).await;
        let token = host.clone();
        let (registry, _) =
            start_server(move |_| challenge(&format!("http://{token}/token"))).await;
        let error = look_up(&[&registry, &host], &format!("{registry}/x:1")).await.unwrap_err();
        assert_eq!(error, LookupError::Request(RequestFailure::TooLarge(64 << 10)));
    }

    #[tokio::test]
    async fn slow_registry_times_out_and_is_not_queried_again() {
        let (host, requests) = start_server(|_| {
            let drip = stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
            });
            Body::from_stream(drip).into_response()
        })
        .await;
        let registries = ImageSizeLookup::new(
            &EgressPolicy::default(),
            std::slice::from_ref(&host),
            NodeCheckMetrics::register(&Registry::new()).unwrap(),
        )
        .unwrap();
        let begun = Clock::now();
        for image in ["x:1", "y:1"] {
            let error =
                registries.look_up(&format!("{host}/{image}").parse().unwrap()).await.unwrap_err();
            assert_eq!(error, LookupError::Request(RequestFailure::TimedOut));
        }
        assert!(
            begun.elapsed() < TIMEOUT && requested_uris(&requests).len() == 1,
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn redirects_are_limited() {
        let (host, requests) = start_server(redirect_to).await;
        assert_eq!(
            look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err(),
            LookupError::Redirects
        );
        assert_eq!(requested_uris(&requests).len(), 4);
    }

    /// Index, manifests of its platforms, a token from another host, and a redirect to a third
    /// host, which does not receive the token.
    #[tokio::test]
    async fn looks_up_two_platforms_with_token_and_redirect() {
        let (store, stored) = start_server(|_| {
            json!({"layers": [{"size": 5}, {"size": 6}]}).to_string().into_response()
        })
        .await;
        let (tokens, told) =
            start_server(|_| json!({"access_token": "T"}).to_string().into_response()).await;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let realm = format!("http://{tokens}/token?a=b");
        let place = format!("http://{store}/blob");
        let router = Router::new().fallback(get(async move |uri: Uri, headers: HeaderMap| {
            if headers.get(AUTHORIZATION).is_none_or(|token| token != "Bearer T") {
                return challenge(&realm);
            }
            if uri.path() == format!("/v2/team/x/manifests/{}", digest('a')) {
                return redirect_to(&place);
            }
            if uri.path() == format!("/v2/team/x/manifests/{}", digest('b')) {
                return json!({"layers": [{"size": 7}]}).to_string().into_response();
            }
            assert_eq!(uri.path(), "/v2/team/x/manifests/1");
            let entry = |digit, os: &str, architecture: &str| {
                json!({"digest": digest(digit), "platform": {"os": os, "architecture": architecture}})
            };
            let manifests = [entry('a', "linux", "amd64"), entry('b', "linux", "arm64"), entry('c', "windows", "amd64")];
            json!({ "manifests": manifests }).to_string().into_response()
        }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let facts = look_up(&[&host, &tokens, &store], &format!("{host}/team/x:1")).await.unwrap();
        assert_eq!(facts.sizes, [("amd64".to_owned(), 11), ("arm64".to_owned(), 7)].into());
        assert_eq!(
            requested_uris(&told),
            ["/token?a=b&service=x&scope=repository%3Ateam%2Fx%3Apull"]
        );
        let stored = stored.lock().unwrap();
        assert!(
            stored.len() == 1
                && stored.iter().all(|(_, headers)| headers.get(AUTHORIZATION).is_none())
        );
    }

    #[tokio::test]
    async fn digest_of_an_index_cannot_change_the_path() {
        let (host, requests) = start_server(|_| {
            let platform = json!({"os": "linux", "architecture": "amd64"});
            json!({"manifests": [{"digest": "sha256:../../../admin", "platform": platform}]})
                .to_string()
                .into_response()
        })
        .await;
        assert_eq!(
            look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err(),
            LookupError::Malformed
        );
        assert_eq!(requested_uris(&requests), ["/v2/x/manifests/1"]);
    }
}
