//! What a registry says of an image: its size, and the platforms it is for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use oci_client::{
    Client, Reference as OciReference,
    client::{ClientConfig, ClientProtocol},
    manifest::{OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};
use tokio::time::Instant;

use crate::image::Reference;

/// A registry is to answer within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What was found counts for this long: a tag that moves changes an image's size little.
const LIFETIME: Duration = Duration::from_secs(600);
/// Images remembered; above it all are forgotten.
const MAX_ENTRIES: usize = 10_000;
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
    client: Client,
    known: Mutex<HashMap<String, (ImageFacts, Instant)>>,
}

impl Registries {
    /// `plain`: hosts that speak plain HTTP.
    #[must_use]
    pub fn new(plain: &[String]) -> Self {
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain.to_vec()),
            connect_timeout: Some(TIMEOUT),
            read_timeout: Some(TIMEOUT),
            ..ClientConfig::default()
        };
        Self { client: Client::new(config), known: Mutex::default() }
    }

    /// Looks an image up. The error says why nothing is known of it.
    pub async fn look_up(&self, image: &Reference) -> Result<ImageFacts, String> {
        let name = image.normalized();
        if let Some((facts, at)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name)
            && at.elapsed() < LIFETIME
        {
            return Ok(facts.clone());
        }
        let asked = tokio::time::timeout(2 * TIMEOUT, self.ask(image));
        let facts = asked.await.map_err(|_| format!("no answer within {} s", 2 * TIMEOUT.as_secs()))??;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ENTRIES {
            known.clear();
        }
        known.insert(name.to_owned(), (facts.clone(), Instant::now()));
        Ok(facts)
    }

    async fn ask(&self, image: &Reference) -> Result<ImageFacts, String> {
        let reference: OciReference = image.normalized().parse().map_err(|error| format!("{error}"))?;
        let manifest = self.manifest(&reference).await?;
        let index = match manifest {
            OciManifest::Image(manifest) => {
                return Ok(ImageFacts { sizes: [(String::new(), size(&manifest))].into() });
            }
            OciManifest::ImageIndex(index) => index,
        };
        let mut facts = ImageFacts::default();
        for entry in index.manifests {
            let Some(platform) = entry.platform else { continue };
            let architecture = platform.architecture.to_string();
            if platform.os.to_string() != "linux"
                || !ARCHITECTURES.contains(&architecture.as_str())
                || facts.sizes.contains_key(&architecture)
            {
                continue;
            }
            if let OciManifest::Image(manifest) = self.manifest(&reference.clone_with_digest(entry.digest)).await? {
                facts.sizes.insert(architecture, size(&manifest));
            }
        }
        Ok(facts)
    }

    async fn manifest(&self, reference: &OciReference) -> Result<OciManifest, String> {
        let pulled = self.client.pull_manifest(reference, &RegistryAuth::Anonymous).await;
        pulled.map(|(manifest, _)| manifest).map_err(|error| error.to_string())
    }
}

fn size(manifest: &OciImageManifest) -> u64 {
    manifest.layers.iter().filter_map(|layer| u64::try_from(layer.size).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_by_architecture() {
        let both = ImageFacts { sizes: [("amd64".to_owned(), 10), ("arm64".to_owned(), 20)].into() };
        assert_eq!(both.size_on("amd64"), Some(10));
        assert_eq!(both.size_on("s390x"), None);
        assert_eq!(both.size_on(""), Some(20));
        let silent = ImageFacts { sizes: [(String::new(), 7)].into() };
        assert_eq!(silent.size_on("arm64"), Some(7));
    }
}
