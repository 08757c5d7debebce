//! Images and their layers, and the catalog of all images that registries offer.

mod catalog;
mod sizes;

use std::{collections::BTreeSet, fmt};

use sha2::{Digest as _, Sha256};

pub use self::{
    catalog::{Catalog, CatalogSettings},
    sizes::LayerSize,
};

/// SHA-256 digest of a manifest, a configuration or a layer. In the simulator it is the hash of
/// what the content was generated from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of these parts. The length of each is included, so that no other division
    /// of the same bytes has the same digest.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Parses the form `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").filter(|digits| {
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Sizes of the blob and of its files.
    pub size: LayerSize,
}

/// Image of one platform: a configuration and layers from the lowest to the highest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    digest: Digest,
    id: Digest,
    layers: Box<[Layer]>,
}

/// Size of the manifest and the configuration of each image, in bytes (an assumption: a manifest
/// with ten layers has about 2 KB, its configuration about 6 KB).
const METADATA_BYTES: u64 = 8 * 1024;

impl Image {
    /// Creates an image of these layers. A layer that occurs again, such as the empty one, is kept
    /// once, because a node downloads and stores it once. `digest` is that of the manifest; without
    /// one it follows from the layers.
    #[must_use]
    pub fn new(layers: Vec<Layer>, digest: Option<Digest>) -> Self {
        let mut seen = BTreeSet::new();
        let layers: Box<[Layer]> =
            layers.into_iter().filter(|layer| seen.insert(layer.digest)).collect();
        let parts: Vec<&[u8]> = layers.iter().map(|layer| &layer.digest.0[..]).collect();
        let digest = digest.unwrap_or_else(|| Digest::of(&parts));
        Self { digest, id: Digest::of(&[b"config", &digest.0]), layers }
    }

    /// Returns the digest of the manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the image ID: the digest of the configuration.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.id
    }

    /// Returns the layers from the lowest to the highest; no digest occurs twice.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Returns the size that the container runtime and the kubelet report, in bytes: containerd
    /// adds the sizes in the manifest, which are those of the compressed layers
    /// (`usage.WithManifestUsage` in `internal/cri/store/image`).
    #[must_use]
    pub fn size(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| layer.size.compressed);
        sizes.fold(METADATA_BYTES, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, compressed: u64) -> Layer {
        let size = LayerSize { compressed, unpacked: compressed * 2 };
        Layer { digest: Digest::of(&[name.as_bytes()]), size }
    }

    #[test]
    fn digests_are_parsed_and_formatted() {
        let digest = Digest::of(&[b"a", b"b"]);
        let text = digest.to_string();
        assert_eq!(text.len(), "sha256:".len() + 64);
        assert_eq!(Digest::parse(&text), Some(digest));
        assert_eq!(Digest::parse(&text[..70]), None);
        assert_eq!(Digest::parse(&format!("sha256:{}", "ä".repeat(32))), None);
        assert_ne!(Digest::of(&[b"ab", b"c"]), Digest::of(&[b"a", b"bc"]));
    }

    #[test]
    fn a_repeated_layer_is_kept_once() {
        let image = Image::new(vec![layer("a", 5), layer("b", 7), layer("a", 5)], None);
        assert_eq!(image.layers().len(), 2);
        assert_eq!(image.size(), METADATA_BYTES + 12);
    }

    #[test]
    fn images_of_the_same_layers_are_the_same() {
        let image = |names: [&str; 2]| Image::new(names.map(|name| layer(name, 1)).into(), None);
        assert_eq!(image(["a", "b"]).id(), image(["a", "b"]).id());
        assert_ne!(image(["a", "b"]).id(), image(["b", "a"]).id());
        assert_ne!(image(["a", "b"]).id(), image(["a", "b"]).digest());
    }
}
