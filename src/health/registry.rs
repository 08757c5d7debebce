//! What a registry says of an image: its size, and the platforms it is for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::distribution::{Distribution, LookupError, Manifest, Session};
use crate::{
    egress::{Cause, Policy},
    image::Reference,
    metrics::Metrics,
};

/// All that is asked of an image is answered within this time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What was found counts for this long: a tag that moves changes an image's size little.
const LIFETIME: Duration = Duration::from_secs(600);
/// A host that did not answer is not asked again for this long.
const SILENCE: Duration = Duration::from_secs(30);
/// Images remembered, and silent hosts; above it all are forgotten.
const MAX_ENTRIES: usize = 10_000;
/// Images asked for at once, by all tasks: 4 of each of the 10 tasks that run by default. With at most 256 KiB for each, and
/// 16 MiB for large manifests, they take 26 MiB.
const TOTAL: usize = 40;
/// Platforms of which the size is asked: more kinds of Linux nodes no cluster has.
const ARCHITECTURES: [&str; 6] = ["amd64", "arm64", "arm", "ppc64le", "s390x", "riscv64"];

/// What is known of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// The compressed size in bytes for each architecture of Linux; under the empty name where the image does not say what it
    /// is for.
    pub sizes: BTreeMap<String, u64>,
}

impl ImageFacts {
    /// The compressed size on an architecture; none where the image is not for it. Where the node does not say what it is,
    /// the largest.
    #[must_use]
    pub fn size_on(&self, architecture: &str) -> Option<u64> {
        if architecture.is_empty() {
            return self.sizes.values().max().copied();
        }
        self.sizes.get(architecture).or_else(|| self.sizes.get("")).copied()
    }
}

/// Asks registries, without credentials: those of a namespace are not ours to use.
pub struct Registries {
    distribution: Distribution,
    metrics: Arc<Metrics>,
    slots: Semaphore,
    known: Mutex<HashMap<String, (ImageFacts, Instant)>>,
    silent: Mutex<HashMap<String, (LookupError, Instant)>>,
}

impl Registries {
    /// `plain`: hosts that speak plain HTTP. The error is the HTTP client's.
    pub fn new(policy: &Policy, plain: &[String], metrics: Arc<Metrics>) -> reqwest::Result<Self> {
        Ok(Self {
            distribution: Distribution::new(policy, plain)?,
            metrics,
            slots: Semaphore::new(TOTAL),
            known: Mutex::default(),
            silent: Mutex::default(),
        })
    }

    /// Looks an image up. The error says why nothing is known of it.
    pub async fn look_up(&self, image: &Reference) -> Result<ImageFacts, LookupError> {
        let name = image.normalized();
        if let Some(facts) = remembered(&self.known, name, LIFETIME) {
            return Ok(facts);
        }
        // Nobody closes it.
        let _slot = self.slots.acquire().await.ok();
        if let Some(error) = remembered(&self.silent, image.registry(), SILENCE) {
            return Err(error);
        }
        let asked = tokio::time::timeout(TIMEOUT, self.ask(image)).await;
        let found = asked.unwrap_or(Err(LookupError::Request(Cause::TimedOut)));
        let result = found.as_ref().map_or_else(LookupError::class, |_| "found");
        self.metrics.registry_lookups.with_label_values(&[result]).inc();
        match &found {
            Ok(facts) => remember(&self.known, name, facts.clone()),
            Err(error) if error.is_silence() => remember(&self.silent, image.registry(), error.clone()),
            Err(_) => {}
        }
        found
    }

    async fn ask(&self, image: &Reference) -> Result<ImageFacts, LookupError> {
        let mut session = Session::default();
        let entries = match self.distribution.manifest(image, None, &mut session).await? {
            Manifest::Image(size) => return Ok(ImageFacts { sizes: [(String::new(), size)].into() }),
            Manifest::Index(entries) => entries,
        };
        let mut facts = ImageFacts::default();
        for entry in entries {
            let Some(platform) = entry.platform else { continue };
            let architecture = platform.architecture;
            if platform.os != "linux"
                || !ARCHITECTURES.contains(&architecture.as_str())
                || facts.sizes.contains_key(&architecture)
            {
                continue;
            }
            if let Manifest::Image(size) = self.distribution.manifest(image, Some(&entry.digest), &mut session).await? {
                facts.sizes.insert(architecture, size);
            }
        }
        Ok(facts)
    }
}

type Remembered<T> = Mutex<HashMap<String, (T, Instant)>>;

fn remembered<T: Clone>(memory: &Remembered<T>, key: &str, lifetime: Duration) -> Option<T> {
    let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    memory.get(key).filter(|(_, at)| at.elapsed() < lifetime).map(|(value, _)| value.clone())
}

fn remember<T>(memory: &Remembered<T>, key: &str, value: T) {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    if memory.len() >= MAX_ENTRIES {
        memory.clear();
    }
    memory.insert(key.to_owned(), (value, Instant::now()));
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Instant as Clock};

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
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    const SECRET: &str = "SECRET";

    #[test]
    fn sizes_by_architecture() {
        let both = ImageFacts { sizes: [("amd64".to_owned(), 10), ("arm64".to_owned(), 20)].into() };
        assert_eq!(both.size_on("amd64"), Some(10));
        assert_eq!(both.size_on("s390x"), None);
        assert_eq!(both.size_on(""), Some(20));
        let silent = ImageFacts { sizes: [(String::new(), 7)].into() };
        assert_eq!(silent.size_on("arm64"), Some(7));
    }

    type Requests = Arc<Mutex<Vec<(Uri, HeaderMap)>>>;

    /// A server, and what it was asked for. Its paths are answered by `answer`.
    async fn server(answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static) -> (String, Requests) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Requests::default();
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

    fn asked(requests: &Requests) -> Vec<String> {
        requests.lock().unwrap().iter().map(|(uri, _)| uri.to_string()).collect()
    }

    /// As the server asks: `plain` are the registries of `--plain-http-registries`, and nothing else inside is allowed.
    async fn look_up(plain: &[&str], image: &str) -> Result<ImageFacts, LookupError> {
        let plain: Vec<String> = plain.iter().map(|host| (*host).to_owned()).collect();
        let metrics = Arc::new(Metrics::new().unwrap());
        let registries = Registries::new(&Policy::default(), &plain, metrics).unwrap();
        registries.look_up(&image.parse().unwrap()).await
    }

    fn to(place: &str) -> Response {
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

    /// A registry may neither redirect to a service inside, nor name one as its token service: nothing is asked there. What
    /// anything answers is not repeated.
    #[tokio::test]
    async fn nothing_inside_is_asked_for_a_registry_and_no_body_is_repeated() {
        let (inside, requests) =
            server(|_| (StatusCode::INTERNAL_SERVER_ERROR, SECRET.repeat(350_000)).into_response()).await;
        for scheme in ["http", "https"] {
            let place = format!("{scheme}://{inside}/admin");
            let (redirects, _) = server({
                let place = place.clone();
                move |_| to(&place)
            })
            .await;
            let (realm, _) = server(move |_| challenge(&place)).await;
            for host in [redirects, realm] {
                let error = look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err().to_string();
                assert!(error.len() <= 200 && !error.contains(SECRET), "{error}");
            }
        }
        let body = look_up(&[&inside], &format!("{inside}/x:1")).await.unwrap_err();
        assert_eq!(body, LookupError::Status(500));
        assert_eq!(asked(&requests), ["/v2/x/manifests/1"], "only where the image's name says so");
    }

    #[tokio::test]
    async fn a_registry_inside_is_not_asked_unless_it_is_allowed() {
        let (inside, requests) = server(|_| StatusCode::OK.into_response()).await;
        let error = look_up(&[], &format!("{inside}/x:1")).await.unwrap_err();
        assert_eq!(error.class(), "denied");
        for image in ["169.254.169.254/x:1", "168.63.129.16/x:1", "registry.shop.svc/x:1", "registry:5000/x:1"] {
            assert_eq!(look_up(&[], image).await.unwrap_err().class(), "denied", "{image}");
        }
        assert!(asked(&requests).is_empty());
    }

    #[tokio::test]
    async fn a_manifest_without_an_end_is_given_up() {
        let (host, _) = server(|_| endless()).await;
        let error = look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err();
        assert_eq!(error, LookupError::Request(Cause::TooLarge(4 << 20)));
    }

    #[tokio::test]
    async fn a_token_without_an_end_is_given_up() {
        let (host, _) = server(|_| endless()).await;
        let token = host.clone();
        let (registry, _) = server(move |_| challenge(&format!("http://{token}/token"))).await;
        let error = look_up(&[&registry, &host], &format!("{registry}/x:1")).await.unwrap_err();
        assert_eq!(error, LookupError::Request(Cause::TooLarge(64 << 10)));
    }

    #[tokio::test]
    async fn a_registry_that_drips_is_given_up_in_time_and_not_asked_again_at_once() {
        let (host, requests) = server(|_| {
            let drip = stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
            });
            Body::from_stream(drip).into_response()
        })
        .await;
        let registries =
            Registries::new(&Policy::default(), std::slice::from_ref(&host), Arc::new(Metrics::new().unwrap()))
                .unwrap();
        let begun = Clock::now();
        for image in ["x:1", "y:1"] {
            let error = registries.look_up(&format!("{host}/{image}").parse().unwrap()).await.unwrap_err();
            assert_eq!(error, LookupError::Request(Cause::TimedOut));
        }
        assert!(begun.elapsed() < TIMEOUT && asked(&requests).len() == 1, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn redirects_have_an_end() {
        let (host, requests) = server(to).await;
        assert_eq!(look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err(), LookupError::Redirects);
        assert_eq!(asked(&requests).len(), 4);
    }

    /// The usual way: an index, the manifests of its platforms, a token on another host, a redirect to a third, which does
    /// not get the token.
    #[tokio::test]
    async fn an_image_for_two_platforms_with_a_token() {
        let (store, stored) =
            server(|_| json!({"layers": [{"size": 5}, {"size": 6}]}).to_string().into_response()).await;
        let (tokens, told) = server(|_| json!({"access_token": "T"}).to_string().into_response()).await;
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
                return to(&place);
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
        assert_eq!(asked(&told), ["/token?a=b&service=x&scope=repository%3Ateam%2Fx%3Apull"]);
        let stored = stored.lock().unwrap();
        assert!(stored.len() == 1 && stored.iter().all(|(_, headers)| headers.get(AUTHORIZATION).is_none()));
    }

    #[tokio::test]
    async fn a_digest_of_an_index_cannot_lead_elsewhere() {
        let (host, requests) = server(|_| {
            let platform = json!({"os": "linux", "architecture": "amd64"});
            json!({"manifests": [{"digest": "sha256:../../../admin", "platform": platform}]})
                .to_string()
                .into_response()
        })
        .await;
        assert_eq!(look_up(&[&host], &format!("{host}/x:1")).await.unwrap_err(), LookupError::Malformed);
        assert_eq!(asked(&requests), ["/v2/x/manifests/1"]);
    }
}
