//! Rotation of the serving certificate, without failed handshakes.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use prewarmer_kube::{
    api_contact::ApiContact,
    object_watch::{ObjectWatch, Observation},
};
use rustls::{server::ClientHello, sign::CertifiedKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::settings::CertificateFiles;
use super::{
    authority::{CertificateAuthority, merge_bundles},
    ca_store::{self, CaError},
    certificates::{
        CertificateError, CertificateLifetimes, CertifiedPair, certified_key, generate_leaf,
        is_due, time_left,
    },
    metrics::CertificateMetrics,
};

/// Retry interval until the first certificate is available.
const RETRY: Duration = Duration::from_secs(2);
/// Duration of one watch request. A broken watch is detected 5 s after its end, and the list that
/// follows takes 5 s at most: a change of the CA is observed within 30 s, the longest interval of
/// checks, from which the overlap of two CAs is computed.
const WATCH_PERIOD: Duration = Duration::from_secs(20);

/// Source of certificates.
pub(crate) enum CertificateSource {
    /// CA managed by Prewarmer in a Secret, which signs the leaves.
    ManagedCa {
        /// Client that reads and writes the Secret.
        client: Box<Client>,
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        secret: String,
        /// DNS names and IP addresses of the leaf.
        names: Vec<String>,
        /// `true`: this process creates and renews the CA; `false`: it only reads it.
        manages_ca: bool,
    },
    /// Certificate, key and CA in files that the user provides.
    Files(CertificateFiles),
}

impl CertificateSource {
    /// Creates the watch of the Secret of a managed CA.
    fn watch(&self, contact: ApiContact) -> Option<ObjectWatch<Secret>> {
        let Self::ManagedCa { client, namespace, secret, .. } = self else { return None };
        let secrets = Api::namespaced((**client).clone(), namespace);
        Some(ObjectWatch::new(secrets, secret, WATCH_PERIOD, contact))
    }
}

/// Resolver that serves the current certificate to TLS handshakes.
#[derive(Debug, Default)]
pub(crate) struct CertResolver(ArcSwapOption<CertifiedKey>);

impl CertResolver {
    /// Replaces the certificate. The next handshake uses the new one.
    pub(crate) fn store(&self, key: CertifiedKey) {
        self.0.store(Some(Arc::new(key)));
    }
}

impl rustls::server::ResolvesServerCert for CertResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Certificate, key and trust bundle loaded from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyMaterial {
    /// Leaf certificate and key.
    pair: CertifiedPair,
    /// Certificate of the CA that signed the leaf.
    issuer: String,
    /// Trust bundle for the API server.
    trusted: String,
}

/// Rotates certificates until `stop`, and publishes the trust bundle for the API server to
/// `bundle`. Expiry is checked by the wall clock, which is correct also after the machine was
/// suspended. The Secret of a managed CA is watched, and read where that is not possible. Files are
/// polled, because a watch on the file itself misses the kubelet's swap of the directory symlink.
pub(crate) async fn run(
    source: CertificateSource,
    lives: CertificateLifetimes,
    current: Arc<CertResolver>,
    bundle: watch::Sender<Option<String>>,
    metrics: CertificateMetrics,
    contact: ApiContact,
    stop: CancellationToken,
) {
    let mut watch = source.watch(contact);
    let mut keeper = Rotator { source, lives, served: None, pending: None, authority: None };
    loop {
        match keeper.load().await {
            Ok(material) => {
                bundle.send_if_modified(|known| {
                    let news = known.as_ref() != Some(&material.trusted);
                    if news {
                        *known = Some(material.trusted.clone());
                    }
                    news
                });
                keeper.install(material, &current, SystemTime::now());
            }
            Err(error) => tracing::error!(
                error = error.to_string(),
                "the serving certificate could not be loaded or renewed; it is retried"
            ),
        }
        if stop.run_until_cancelled(keeper.wait_until_due(&mut watch, &metrics)).await.is_none() {
            return;
        }
    }
}

/// Error of loading or renewing the certificate.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Leaf(#[from] CertificateError),
    #[error("{}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}: no valid CA certificate: all of them have expired or cannot be parsed", .0.display())]
    NoValidCa(PathBuf),
}

struct Rotator {
    source: CertificateSource,
    lives: CertificateLifetimes,
    served: Option<KeyMaterial>,
    /// Certificate of a new CA and the time since which that CA is published. It is served after
    /// the overlap time, when the API server has received the CA.
    pending: Option<(CertifiedPair, SystemTime)>,
    /// Managed CA that was read last.
    authority: Option<CertificateAuthority>,
}

impl Rotator {
    /// Waits until the certificate must be loaded again. Updates the metric at each check.
    async fn wait_until_due(
        &self,
        watch: &mut Option<ObjectWatch<Secret>>,
        metrics: &CertificateMetrics,
    ) {
        loop {
            let mut pause = RETRY;
            if let Some(material) = &self.served {
                let left = time_left(&material.pair.certificate, SystemTime::now());
                metrics.expiry.set(left.unwrap_or_default().as_secs_f64());
                pause = self.lives.check_interval();
            }
            tokio::select! {
                () = self.changed(watch) => return,
                () = tokio::time::sleep(pause) => {}
            }
            let is_watched = watch.as_ref().is_some_and(ObjectWatch::is_open);
            if !is_watched || self.is_due(SystemTime::now()) {
                return;
            }
        }
    }

    /// Resolves when the watched Secret contains another CA than the one that was read last.
    async fn changed(&self, watch: &mut Option<ObjectWatch<Secret>>) {
        let Some(watch) = watch else { return std::future::pending().await };
        loop {
            match watch.next().await {
                Ok(Observation::State(secret)) => {
                    if secret.as_deref().and_then(ca_store::parse_secret) != self.authority {
                        return;
                    }
                }
                Ok(Observation::Unchanged) => {}
                Err(error) => {
                    tracing::debug!(%error, "the Secret of the CA could not be watched; it is read instead");
                }
            }
        }
    }

    /// Reports whether the managed CA or the leaf must be renewed or replaced, or none was loaded.
    fn is_due(&self, now: SystemTime) -> bool {
        let (Some(served), Some(authority)) = (&self.served, &self.authority) else { return true };
        let manages_ca =
            matches!(self.source, CertificateSource::ManagedCa { manages_ca: true, .. });
        let ca_is_due = || authority.next.is_some() || is_due(&authority.signing.certificate, now);
        is_due(&served.pair.certificate, now) || (manages_ca && ca_is_due())
    }

    async fn load(&mut self) -> Result<KeyMaterial, LoadError> {
        match &self.source {
            CertificateSource::Files(files) => self.load_files(files).await,
            CertificateSource::ManagedCa {
                client,
                namespace,
                secret,
                names,
                manages_ca: makes,
            } => {
                let authority = if *makes {
                    ca_store::ensure_ca(client, namespace, secret, names, &self.lives).await?
                } else {
                    ca_store::read_ca(client, namespace, secret, names).await?
                };
                self.authority = Some(authority.clone());
                let (now, issuer) = (SystemTime::now(), authority.signing.certificate.clone());
                let good = |served: &&KeyMaterial| {
                    served.issuer == issuer && !is_due(&served.pair.certificate, now)
                };
                let pair = match self.served.as_ref().filter(good) {
                    Some(served) => served.pair.clone(),
                    None => generate_leaf(&authority.signing, names, now, self.lives.leaf)?,
                };
                Ok(KeyMaterial { pair, issuer, trusted: authority.bundle })
            }
        }
    }

    /// Loads the certificate files. A CA that the CA file contained earlier stays trusted until it
    /// expires.
    async fn load_files(&self, files: &CertificateFiles) -> Result<KeyMaterial, LoadError> {
        let read = async |path: &std::path::Path| {
            tokio::fs::read_to_string(path)
                .await
                .map_err(|error| LoadError::Read(path.to_owned(), error))
        };
        let pair = CertifiedPair {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
        };
        let issuer = read(&files.ca).await?;
        let before = self.served.as_ref().map(|served| served.trusted.as_str()).unwrap_or_default();
        let trusted = merge_bundles(before, &issuer, SystemTime::now());
        if trusted.is_empty() {
            return Err(LoadError::NoValidCa(files.ca.clone()));
        }
        Ok(KeyMaterial { pair, issuer, trusted })
    }

    /// Serves loaded material: at once, or after the overlap time where files contain a new CA. A
    /// managed CA has been published before it signs.
    fn install(&mut self, material: KeyMaterial, current: &CertResolver, now: SystemTime) {
        if self.served.as_ref() == Some(&material) {
            return;
        }
        if let Some(served) = &mut self.served
            && matches!(self.source, CertificateSource::Files(_))
            && served.issuer != material.issuer
            && time_left(&served.pair.certificate, now).is_ok_and(|left| !left.is_zero())
        {
            let since = match &self.pending {
                Some((pair, since)) if *pair == material.pair => *since,
                _ => now,
            };
            self.pending = Some((material.pair.clone(), since));
            if now.duration_since(since).unwrap_or_default() < self.lives.overlap() {
                served.trusted = material.trusted;
                return;
            }
        }
        self.pending = None;
        let known = self.served.as_ref().is_some_and(|served| served.pair == material.pair);
        match certified_key(&material.pair) {
            Ok(key) => {
                if !known {
                    current.store(key);
                    tracing::info!("serving a new certificate");
                }
                self.served = Some(material);
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate is unusable; the previous one is still served");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prewarmer_kube::mock_api::MockApi;
    use serde_json::{Value, json};

    use super::*;
    use crate::server::certificates::generate_ca;

    fn write_certificate_files(
        folder: &std::path::Path,
        now: SystemTime,
    ) -> (CertificateFiles, String) {
        let lives = CertificateLifetimes::default();
        let names = ["127.0.0.1".to_owned()];
        let ca = generate_ca(&names, now, lives.ca).unwrap();
        let leaf = generate_leaf(&ca, &names, now, lives.leaf).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = CertificateFiles {
            certificate: file("tls.crt", &leaf.certificate),
            key: file("tls.key", &leaf.key),
            ca: file("ca.crt", &ca.certificate),
        };
        (files, leaf.certificate)
    }

    fn rotator(files: CertificateFiles, lives: CertificateLifetimes) -> Rotator {
        let source = CertificateSource::Files(files);
        Rotator { source, lives, served: None, pending: None, authority: None }
    }

    const SECRETS: &str = "/api/v1/namespaces/own/secrets";

    /// Returns the Secret that the server writes at its first start, at this version.
    async fn create_ca(api: &mut MockApi) -> Value {
        api.expect("GET", &format!("{SECRETS}/ca")).fail(404, "NotFound", "no such Secret").await;
        let held = api.expect("POST", SECRETS).hold().await;
        let mut created = held.received().body.clone();
        created["metadata"]["resourceVersion"] = json!("1");
        held.respond(201, &created);
        created
    }

    fn list(secret: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"},
            "items": [secret]})
    }

    fn start(api: &MockApi, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let source = CertificateSource::ManagedCa {
            client: Box::new(api.client()),
            namespace: "own".into(),
            secret: "ca".into(),
            names: vec!["hook.own.svc".into()],
            manages_ca: true,
        };
        let metrics = CertificateMetrics::register(&prometheus::Registry::new()).unwrap();
        let (current, bundle) = (Arc::new(CertResolver::default()), watch::Sender::new(None));
        let (lives, contact) = (CertificateLifetimes::default(), ApiContact::default());
        tokio::spawn(run(source, lives, current, bundle, metrics, contact, stop.clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_managed_ca_is_read_only_when_it_changes() {
        let (mut api, stop) = (MockApi::new(), CancellationToken::new());
        let task = start(&api, &stop);
        let secret = create_ca(&mut api).await;
        api.expect("GET", SECRETS).respond(200, list(&secret)).await;
        // The watch delivers the CA that the server wrote itself, and nothing else for 25 s.
        let event = |secret: &Value| json!({"type": "MODIFIED", "object": secret});
        api.expect("GET", SECRETS).hold().await.open_watch(&[event(&secret)]);
        api.expect_none(Duration::from_secs(24)).await;
        api.expect("GET", SECRETS).respond(200, list(&secret)).await;
        // Another replica has replaced the CA.
        let mut other = secret.clone();
        other["data"]["ca.crt"] = json!("eA==");
        api.expect("GET", SECRETS).hold().await.open_watch(&[event(&other)]);
        let _read = api.expect("GET", &format!("{SECRETS}/ca")).hold().await;
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_managed_ca_that_may_not_be_watched_is_read_every_30_s() {
        let (mut api, stop) = (MockApi::new(), CancellationToken::new());
        let task = start(&api, &stop);
        let secret = create_ca(&mut api).await;
        let begun = tokio::time::Instant::now();
        let mut reads = 0;
        while reads < 2 {
            // The list is tried again after a growing pause.
            let held = api.expect_any().hold().await;
            if held.received().path.ends_with("/ca") {
                reads += 1;
                held.respond(200, &secret);
            } else {
                let status = json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden"});
                held.respond(403, &status);
            }
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(61), "{took:?}");
        stop.cancel();
        api.join(task).await;
    }

    #[tokio::test]
    async fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (files, _) = write_certificate_files(folder.path(), SystemTime::now());
        let (key, ca) = (files.key.clone(), files.ca.clone());
        let mut keeper = rotator(files, CertificateLifetimes::default());
        std::fs::write(&ca, "nothing").unwrap();
        let expected = format!(
            "{}: no valid CA certificate: all of them have expired or cannot be parsed",
            ca.display()
        );
        assert_eq!(keeper.load().await.unwrap_err().to_string(), expected);
        std::fs::remove_file(&key).unwrap();
        let error = keeper.load().await.unwrap_err().to_string();
        assert_eq!(error, format!("{}: No such file or directory (os error 2)", key.display()));
    }

    /// CA, certificate and key are replaced at the same time, as cert-manager does.
    #[tokio::test]
    async fn files_of_a_new_ca_are_served_after_the_overlap() {
        let (folder, now, current) =
            (tempfile::tempdir().unwrap(), SystemTime::now(), CertResolver::default());
        let (files, first) = write_certificate_files(folder.path(), now);
        let lives = CertificateLifetimes::default();
        let mut keeper = rotator(files, lives);
        let mut look = async |at: SystemTime| {
            let material = keeper.load().await.unwrap();
            keeper.install(material, &current, at);
            let served = keeper.served.as_ref().unwrap();
            (served.pair.certificate.clone(), served.trusted.matches("BEGIN").count())
        };
        assert_eq!(look(now).await, (first.clone(), 1));
        let (_, second) = write_certificate_files(folder.path(), now);
        assert_eq!(look(now).await, (first.clone(), 2));
        assert_eq!(look(now + lives.overlap() / 2).await, (first, 2));
        assert_eq!(look(now + lives.overlap()).await, (second, 2));
    }
}
