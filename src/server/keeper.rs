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
    ca_store,
    certificates::{LEAF_RENEW_BEFORE, Pair, make_leaf, serving, time_left},
};
use crate::{config::CertificateFiles, metrics::Metrics};

/// How often files and expiry are looked at. By the wall clock, so that a machine that slept is caught up with; polled,
/// because a watch on the file itself misses the kubelet's swap of the folder's link.
const CHECK: Duration = Duration::from_secs(30);

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

/// What a look at the source gave: the pair to serve and the CA to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Material {
    pair: Pair,
    ca: String,
}

/// Keeps certificates until `stop`. `bundle` tells the CA that the API server is to trust.
pub async fn keep(
    source: Source,
    current: Arc<Current>,
    bundle: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut known: Option<Material> = None;
    loop {
        match look(&source, known.as_ref()).await {
            Ok(material) if known.as_ref() != Some(&material) => match serving(&material.pair) {
                Ok(key) => {
                    current.store(key);
                    bundle.send_replace(Some(material.ca.clone()));
                    tracing::info!("serving a new certificate");
                    known = Some(material);
                }
                Err(error) => tracing::error!(%error, "the certificate cannot be served; the old one stays"),
            },
            Ok(_) => {}
            Err(error) => tracing::error!(error, "no certificate could be had; trying again"),
        }
        if let Some(material) = &known {
            let left = time_left(&material.pair.certificate, SystemTime::now()).unwrap_or_default();
            metrics.certificate_expiry.set(left.as_secs_f64());
        }
        let pause = if known.is_some() { CHECK } else { Duration::from_secs(2) };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn look(source: &Source, known: Option<&Material>) -> Result<Material, String> {
    match source {
        Source::Files(files) => {
            let read = async |path: &std::path::Path| {
                tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))
            };
            let pair = Pair { certificate: read(&files.certificate).await?, key: read(&files.key).await? };
            Ok(Material { pair, ca: read(&files.ca).await? })
        }
        Source::Own { client, namespace, secret, names } => {
            let ca = ca_store::obtain(client, namespace, secret).await.map_err(|error| error.to_string())?;
            let now = SystemTime::now();
            let fresh = |material: &&Material| {
                material.ca == ca.certificate
                    && time_left(&material.pair.certificate, now).is_ok_and(|left| left > LEAF_RENEW_BEFORE)
            };
            if let Some(material) = known.filter(fresh) {
                return Ok(material.clone());
            }
            let pair = make_leaf(&ca, names, now).map_err(|error| error.to_string())?;
            Ok(Material { pair, ca: ca.certificate })
        }
    }
}
