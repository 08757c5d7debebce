//! Keeps the serving certificate fresh and swaps it without a dropped handshake.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use kube::Client;
use rustls::{server::ClientHello, sign::CertifiedKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    authority::bundle,
    ca_store,
    certificates::{Lifetimes, Pair, is_due, make_leaf, serving, time_left},
};
use crate::{config::CertificateFiles, metrics::Metrics};

/// After a failure to get a first certificate.
const RETRY: Duration = Duration::from_secs(2);

/// Where certificates come from.
pub enum Source {
    /// Our own CA, in a Secret; leaves for these names.
    Own {
        /// To read and write the Secret.
        client: Box<Client>,
        /// Its namespace.
        namespace: String,
        /// Its name.
        secret: String,
        /// DNS names and IP addresses of the leaf.
        names: Vec<String>,
        /// Whether this process makes and renews the CA, or only reads it.
        makes: bool,
    },
    /// The user's files.
    Files(CertificateFiles),
}

/// The certificate that handshakes get.
#[derive(Debug, Default)]
pub struct Current(ArcSwapOption<CertifiedKey>);

impl Current {
    /// Serves this certificate from the next handshake on.
    pub fn store(&self, key: CertifiedKey) {
        self.0.store(Some(Arc::new(key)));
    }
}

impl rustls::server::ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// What a look at the source gave.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Material {
    /// To be served.
    pair: Pair,
    /// What has signed it.
    issuer: String,
    /// What the API server is to trust.
    trusted: String,
}

/// Keeps certificates until `stop`. `bundle` tells what the API server is to trust. Certificates are looked at by the wall
/// clock, so that a machine that slept is caught up with; and files by polling, because a watch on the file itself misses the
/// kubelet's swap of the folder's link.
pub async fn keep(
    source: Source,
    lives: Lifetimes,
    current: Arc<Current>,
    bundle: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut keeper = Keeper { source, lives, served: None, waiting: None };
    loop {
        match keeper.look().await {
            Ok(material) => {
                bundle.send_if_modified(|known| {
                    let news = known.as_ref() != Some(&material.trusted);
                    if news {
                        *known = Some(material.trusted.clone());
                    }
                    news
                });
                keeper.serve(material, &current, SystemTime::now());
            }
            Err(error) => tracing::error!(error, "no certificate could be had; trying again"),
        }
        if let Some(material) = &keeper.served {
            let left = time_left(&material.pair.certificate, SystemTime::now()).unwrap_or_default();
            metrics.certificate_expiry.set(left.as_secs_f64());
        }
        let pause = if keeper.served.is_some() { lives.check() } else { RETRY };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

struct Keeper {
    source: Source,
    lives: Lifetimes,
    served: Option<Material>,
    /// A pair of another CA, and since when that is published: it is served when the API server has had time to learn.
    waiting: Option<(Pair, SystemTime)>,
}

impl Keeper {
    async fn look(&self) -> Result<Material, String> {
        match &self.source {
            Source::Files(files) => self.look_at(files).await,
            Source::Own { client, namespace, secret, names, makes } => {
                let authority = if *makes {
                    ca_store::obtain(client, namespace, secret, names, &self.lives).await
                } else {
                    ca_store::read_only(client, namespace, secret, names).await
                };
                let authority = authority.map_err(|error| error.to_string())?;
                let (now, issuer) = (SystemTime::now(), authority.signing.certificate.clone());
                let good = |served: &&Material| served.issuer == issuer && !is_due(&served.pair.certificate, now);
                let pair = match self.served.as_ref().filter(good) {
                    Some(served) => served.pair.clone(),
                    None => {
                        make_leaf(&authority.signing, names, now, self.lives.leaf).map_err(|error| error.to_string())?
                    }
                };
                Ok(Material { pair, issuer, trusted: authority.bundle })
            }
        }
    }

    /// A CA that the file named before stays trusted until it expires.
    async fn look_at(&self, files: &CertificateFiles) -> Result<Material, String> {
        let read = async |path: &std::path::Path| {
            tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))
        };
        let pair = Pair { certificate: read(&files.certificate).await?, key: read(&files.key).await? };
        let issuer = read(&files.ca).await?;
        let before = self.served.as_ref().map(|served| served.trusted.as_str()).unwrap_or_default();
        let trusted = bundle(before, &issuer, SystemTime::now());
        if trusted.is_empty() {
            return Err(format!("{}: no certificate that is valid now", files.ca.display()));
        }
        Ok(Material { pair, issuer, trusted })
    }

    /// Serves what was found: at once, unless it comes from another CA. Our own authority has published that already.
    fn serve(&mut self, material: Material, current: &Current, now: SystemTime) {
        if self.served.as_ref() == Some(&material) {
            return;
        }
        if let Some(served) = &mut self.served
            && matches!(self.source, Source::Files(_))
            && served.issuer != material.issuer
            && time_left(&served.pair.certificate, now).is_ok_and(|left| !left.is_zero())
        {
            let since = match &self.waiting {
                Some((pair, since)) if *pair == material.pair => *since,
                _ => now,
            };
            self.waiting = Some((material.pair.clone(), since));
            if now.duration_since(since).unwrap_or_default() < self.lives.overlap() {
                served.trusted = material.trusted;
                return;
            }
        }
        self.waiting = None;
        let known = self.served.as_ref().is_some_and(|served| served.pair == material.pair);
        match serving(&material.pair) {
            Ok(key) => {
                if !known {
                    current.store(key);
                    tracing::info!("serving a new certificate");
                }
                self.served = Some(material);
            }
            Err(error) => tracing::error!(%error, "the certificate cannot be served; the old one stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::certificates::make_ca_for;

    fn write(folder: &std::path::Path, now: SystemTime) -> (CertificateFiles, String) {
        let lives = Lifetimes::default();
        let names = ["127.0.0.1".to_owned()];
        let ca = make_ca_for(&names, now, lives.ca).unwrap();
        let leaf = make_leaf(&ca, &names, now, lives.leaf).unwrap();
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

    /// As cert-manager does it: CA, certificate and key are replaced at once.
    #[tokio::test]
    async fn files_of_another_ca_are_served_when_it_is_known() {
        let (folder, now, current) = (tempfile::tempdir().unwrap(), SystemTime::now(), Current::default());
        let (files, first) = write(folder.path(), now);
        let lives = Lifetimes::default();
        let mut keeper = Keeper { source: Source::Files(files), lives, served: None, waiting: None };
        let mut look = async |at: SystemTime| {
            let material = keeper.look().await.unwrap();
            keeper.serve(material, &current, at);
            let served = keeper.served.as_ref().unwrap();
            (served.pair.certificate.clone(), served.trusted.matches("BEGIN").count())
        };
        assert_eq!(look(now).await, (first.clone(), 1));
        let (_, second) = write(folder.path(), now);
        assert_eq!(look(now).await, (first.clone(), 2));
        assert_eq!(look(now + lives.overlap() / 2).await, (first, 2));
        assert_eq!(look(now + lives.overlap()).await, (second, 2));
    }
}
