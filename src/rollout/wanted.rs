//! Which images the watched workloads ask for, for other rooms to look into: some 30 bytes for each. *Pure.*

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use crate::workload::Workload;

/// A namespace and an image, as a hash.
pub(super) type Image = u64;

fn hash(namespace: &str, image: &str) -> Image {
    let mut hasher = DefaultHasher::new();
    (namespace, image).hash(&mut hasher);
    hasher.finish()
}

/// What these ask for.
pub(super) fn images_of(workloads: &[Workload]) -> Vec<Image> {
    let of = |workload: &Workload| {
        let images = workload.images.iter().map(|image| hash(&workload.namespace, image.normalized()));
        images.collect::<Vec<_>>()
    };
    workloads.iter().flat_map(of).collect()
}

/// How many workloads ask for each image. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<Mutex<HashMap<Image, u32>>>);

impl Wanted {
    /// Whether a watched workload of the namespace asks for the image, given in its full form.
    #[must_use]
    pub fn has(&self, namespace: &str, normalized: &str) -> bool {
        self.lock().contains_key(&hash(namespace, normalized))
    }

    pub(super) fn add(&self, images: &[Image]) {
        let mut counts = self.lock();
        for image in images {
            *counts.entry(*image).or_default() += 1;
        }
    }

    pub(super) fn drop(&self, images: &[Image]) {
        let mut counts = self.lock();
        for image in images {
            if let Some(count) = counts.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(image);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Image, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_wanted_as_long_as_somebody_asks_for_it() {
        let (wanted, one) = (Wanted::default(), hash("shop", "docker.io/library/a:1"));
        wanted.add(&[one]);
        wanted.add(&[one]);
        wanted.drop(&[one]);
        assert!(wanted.has("shop", "docker.io/library/a:1") && !wanted.has("bank", "docker.io/library/a:1"));
        wanted.drop(&[one, one]);
        assert!(!wanted.has("shop", "docker.io/library/a:1"));
    }
}
