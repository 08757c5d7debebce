//! Catalog of the images that registries offer.
//!
//! An image that was not put in is generated from the seed and its reference, so that a reference
//! names the same content on each node and in each run. It consists of three parts:
//!
//! 1. the layers of a base image, which all repositories of one family share. The base has at most
//!    half of the image's bytes. Few families are popular: their frequency follows Zipf's law;
//! 2. dependencies, which all tags of the repository share;
//! 3. the application, which differs with each tag and each revision of a tag.
//!
//! The families, their frequency and the share of the application are assumptions, set by
//! [`CatalogSettings`]. The order of the layers is that of a usual Dockerfile, so that shared layers
//! are at the bottom, which is the condition for sharing unpacked layers.

use std::{collections::BTreeMap, sync::Arc};

use prewarmer_api::image::ImageRef;

use super::{
    Digest, Image, Layer,
    sizes::{LayerSize, divide, draw_base, draw_image},
};
use crate::random::Random;

/// Smallest size of what a repository adds to its base image, in bytes (assumption: a small static
/// program).
const MIN_OWN_BYTES: u64 = 500_000;
/// Maximum number of base images.
const MAX_FAMILIES: u64 = 1_000;

/// Settings of generated images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogSettings {
    /// Number of base images, between 1 and 1,000. The default of 20 is an assumption.
    pub families: u64,
    /// Least and greatest share of a repository's own bytes that differ with each tag, in percent.
    /// The default of 10 to 90 is an assumption: a rebuilt program in one layer, or a rebuild of
    /// almost everything.
    pub changed_percent: (u64, u64),
}

impl Default for CatalogSettings {
    fn default() -> Self {
        Self { families: 20, changed_percent: (10, 90) }
    }
}

/// Images by reference.
///
/// Contains one entry of about 1 KB for each reference that was put in or resolved, as registries
/// keep their images.
#[derive(Debug)]
pub struct Catalog {
    seed: u64,
    settings: CatalogSettings,
    /// Base images by family, with their compressed bytes.
    bases: Vec<(u64, Vec<Layer>)>,
    /// Images by normalized reference.
    images: BTreeMap<String, Arc<Image>>,
    /// Images by repository and digest.
    digests: BTreeMap<(String, Digest), Arc<Image>>,
    /// Revisions of moved tags, by normalized reference.
    revisions: BTreeMap<String, u64>,
}

impl Catalog {
    /// Creates a catalog that generates every image.
    #[must_use]
    pub fn new(seed: u64, settings: CatalogSettings) -> Self {
        let families = settings.families.clamp(1, MAX_FAMILIES);
        Self {
            seed,
            settings,
            bases: (0..families).map(|family| base(seed, family)).collect(),
            images: BTreeMap::new(),
            digests: BTreeMap::new(),
            revisions: BTreeMap::new(),
        }
    }

    /// Puts in an image with these layers, from the lowest to the highest, and returns it. It
    /// replaces the image that the reference named before. Its layers are shared with no other
    /// image.
    pub fn insert(&mut self, reference: &ImageRef, layers: &[LayerSize]) -> Arc<Image> {
        let name = reference.normalized();
        let revision = self.revisions.get(name).copied().unwrap_or_default();
        let layers = layers_of(self.seed, &format!("explicit {name} {revision}"), layers);
        let image = Image::new(layers, reference.digest().and_then(Digest::parse));
        self.put(reference, image)
    }

    /// Moves a tag: from now on it names a newly generated image. Nodes keep the old one.
    pub fn move_tag(&mut self, reference: &ImageRef) -> Arc<Image> {
        let revision = self.revisions.entry(reference.normalized().to_owned()).or_default();
        *revision = revision.saturating_add(1);
        let image = self.generate(reference);
        self.put(reference, image)
    }

    /// Returns the image that a reference names.
    pub fn resolve(&mut self, reference: &ImageRef) -> Arc<Image> {
        if let Some(image) = self.images.get(reference.normalized()) {
            return Arc::clone(image);
        }
        let digest = reference.digest().and_then(Digest::parse);
        if let Some(image) = digest.and_then(|d| self.digests.get(&(repository(reference), d))) {
            return Arc::clone(image);
        }
        let image = self.generate(reference);
        self.put(reference, image)
    }

    /// Puts in an image, which may share layers with others, and returns it. It replaces the image
    /// that the reference named before.
    pub fn put(&mut self, reference: &ImageRef, image: Image) -> Arc<Image> {
        let image = Arc::new(image);
        self.images.insert(reference.normalized().to_owned(), Arc::clone(&image));
        self.digests.insert((repository(reference), image.digest()), Arc::clone(&image));
        image
    }

    fn generate(&self, reference: &ImageRef) -> Image {
        let (repository, name) = (repository(reference), reference.normalized());
        let mut random = self.random(&format!("repository {repository}"));
        let (bytes, count) = draw_image(&mut random);
        let (base_bytes, base) = self.draw_family(bytes / 2, &mut random);
        let own_bytes = bytes.saturating_sub(base_bytes).max(MIN_OWN_BYTES);
        let own_layers = count.saturating_sub(base.len() as u64).max(2);
        let (least, greatest) = self.settings.changed_percent;
        let percent = random.between(least, greatest).min(100);
        let changed_bytes = own_bytes.saturating_mul(percent) / 100;
        let changed_layers = own_layers / 2;
        let kept = divide(
            own_bytes.saturating_sub(changed_bytes),
            own_layers.saturating_sub(changed_layers),
            &mut random,
        );
        let revision = self.revisions.get(name).copied().unwrap_or_default();
        let version = format!("version {name} {revision}");
        let changed = divide(changed_bytes, changed_layers, &mut self.random(&version));
        let mut layers = base.to_vec();
        layers.extend(layers_of(self.seed, &format!("repository {repository}"), &kept));
        layers.extend(layers_of(self.seed, &version, &changed));
        Image::new(layers, reference.digest().and_then(Digest::parse))
    }

    /// Draws a base image with at most this many bytes, the smallest one if there is none. Family
    /// `k` has a weight of `1 / (k + 1)`.
    fn draw_family(&self, max_bytes: u64, random: &mut Random) -> (u64, &[Layer]) {
        let weight = |k: u64| 1_000_000_u64.checked_div(k.saturating_add(1)).unwrap_or_default();
        let fitting = || (0..).zip(&self.bases).filter(|(_, (bytes, _))| *bytes <= max_bytes);
        let sum = fitting().map(|(k, _)| weight(k)).fold(0, u64::saturating_add);
        let mut rest = random.below(sum);
        let drawn = fitting().find(|(k, _)| match rest.checked_sub(weight(*k)) {
            Some(left) => {
                rest = left;
                false
            }
            None => true,
        });
        let base = drawn.map(|(_, base)| base);
        let base = base.or_else(|| self.bases.iter().min_by_key(|(bytes, _)| *bytes));
        base.map_or((0, &[]), |(bytes, layers)| (*bytes, layers.as_slice()))
    }

    fn random(&self, name: &str) -> Random {
        Random::new(self.seed, name)
    }
}

/// Generates the base image of a family, and returns it with its compressed bytes.
fn base(seed: u64, family: u64) -> (u64, Vec<Layer>) {
    let name = format!("base {family}");
    let mut random = Random::new(seed, &name);
    let (bytes, count) = draw_base(&mut random);
    let sizes = divide(bytes, count, &mut random);
    let bytes = sizes.iter().map(|size| size.compressed).fold(0, u64::saturating_add);
    (bytes, layers_of(seed, &name, &sizes))
}

/// Returns layers of these sizes, whose digests follow from the seed, the name of their origin and
/// their position.
fn layers_of(seed: u64, origin: &str, sizes: &[LayerSize]) -> Vec<Layer> {
    let seed = seed.to_le_bytes();
    let layer = |(index, size): (u64, &LayerSize)| {
        let digest = Digest::of(&[&seed, origin.as_bytes(), &index.to_le_bytes()]);
        Layer { digest, size: *size }
    };
    (0..).zip(sizes).map(layer).collect()
}

/// Returns the registry and the repository of a reference.
fn repository(reference: &ImageRef) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reference(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    fn catalog() -> Catalog {
        Catalog::new(1, CatalogSettings::default())
    }

    fn shared(a: &Image, b: &Image) -> usize {
        let digests = |image: &Image| -> BTreeSet<Digest> {
            image.layers().iter().map(|layer| layer.digest).collect()
        };
        digests(a).intersection(&digests(b)).count()
    }

    #[test]
    fn a_reference_names_the_same_image_in_each_catalog() {
        let image = |seed| {
            let reference = reference("registry.example/shop/web:1");
            Catalog::new(seed, CatalogSettings::default()).resolve(&reference)
        };
        assert_eq!(image(1), image(1));
        assert_ne!(image(1), image(2));
    }

    #[test]
    fn tags_of_a_repository_share_all_but_the_application() {
        let mut catalog = catalog();
        for app in 0..50 {
            let one = catalog.resolve(&reference(&format!("registry.example/app-{app}:1")));
            let two = catalog.resolve(&reference(&format!("registry.example/app-{app}:2")));
            let common = shared(&one, &two);
            assert!(common >= 2 && common < one.layers().len(), "{common}");
            assert_eq!(one.layers()[..common], two.layers()[..common]);
        }
    }

    #[test]
    fn most_repositories_share_their_base_with_another() {
        let mut catalog = catalog();
        let bases: Vec<Digest> = (0..100)
            .map(|app| catalog.resolve(&reference(&format!("registry.example/app-{app}:1"))))
            .map(|image| image.layers()[0].digest)
            .collect();
        let distinct: BTreeSet<&Digest> = bases.iter().collect();
        assert!((5..=20).contains(&distinct.len()), "{}", distinct.len());
    }

    #[test]
    fn a_digest_names_the_image_that_its_tag_named() {
        let mut catalog = catalog();
        let tag = reference("registry.example/app:1");
        let image = catalog.resolve(&tag);
        let pinned = reference(&format!("registry.example/app@{}", image.digest()));
        assert_eq!(catalog.resolve(&pinned), image);
        let moved = catalog.move_tag(&tag);
        assert_ne!(moved.digest(), image.digest());
        assert_eq!(catalog.resolve(&tag), moved);
        assert_eq!(catalog.resolve(&pinned), image);
    }

    #[test]
    fn an_unknown_digest_names_an_image_with_this_digest() {
        let digest = Digest::of(&[b"unknown"]);
        let image = catalog().resolve(&reference(&format!("registry.example/app@{digest}")));
        assert_eq!(image.digest(), digest);
    }

    #[test]
    fn an_image_that_was_put_in_replaces_the_generated_one() {
        let mut catalog = catalog();
        let model = reference("registry.example/model:70b");
        let sizes = [LayerSize { compressed: 40_000_000_000, unpacked: 41_000_000_000 }];
        let image = catalog.insert(&model, &sizes);
        assert!(image.size() >= 40_000_000_000);
        assert_eq!(catalog.resolve(&model), image);
    }

    #[test]
    fn generated_images_have_the_published_sizes() {
        let mut catalog = catalog();
        let mut sizes: Vec<u64> = (0..2_000)
            .map(|app| catalog.resolve(&reference(&format!("registry.example/app-{app}:1"))).size())
            .collect();
        sizes.sort_unstable();
        assert!((14_000_000..=25_000_000).contains(&sizes[1_000]), "{}", sizes[1_000]);
        assert!((380_000_000..=580_000_000).contains(&sizes[1_800]), "{}", sizes[1_800]);
    }
}
