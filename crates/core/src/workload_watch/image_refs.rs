//! Reference counts of the images that watched workloads need, about 30 bytes per image. Pure: no
//! client, no clock, no I/O.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{shrink_sparse, workload::Workload};

/// Hash of a namespace and an image.
pub type ImageHash = u64;

fn image_hash(namespace: &str, image: &str) -> ImageHash {
    let mut hasher = DefaultHasher::new();
    (namespace, image).hash(&mut hasher);
    hasher.finish()
}

/// Returns the hashes of the workloads' images.
#[must_use]
pub fn image_hashes(workloads: &[Workload]) -> Vec<ImageHash> {
    let of = |workload: &Workload| {
        let images =
            workload.images.iter().map(|image| image_hash(&workload.namespace, image.normalized()));
        images.collect::<Vec<_>>()
    };
    workloads.iter().flat_map(of).collect()
}

/// Number of workloads that need each image. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ImageRefs(Arc<Mutex<HashMap<ImageHash, u32>>>);

impl ImageRefs {
    /// Reports whether a watched workload of the namespace needs the image, given in normalized
    /// form.
    #[must_use]
    pub fn contains(&self, namespace: &str, normalized: &str) -> bool {
        self.lock().contains_key(&image_hash(namespace, normalized))
    }

    /// Adds one reference to each image.
    pub fn acquire(&self, images: &[ImageHash]) {
        let mut counts = self.lock();
        for image in images {
            *counts.entry(*image).or_default() += 1;
        }
    }

    /// Removes one reference to each image.
    pub fn release(&self, images: &[ImageHash]) {
        let mut counts = self.lock();
        for image in images {
            if let Some(count) = counts.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(image);
                }
            }
        }
        shrink_sparse(&mut counts);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ImageHash, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_is_contained_while_a_workload_needs_it() {
        let (wanted, one) = (ImageRefs::default(), image_hash("shop", "docker.io/library/a:1"));
        wanted.acquire(&[one]);
        wanted.acquire(&[one]);
        wanted.release(&[one]);
        assert!(
            wanted.contains("shop", "docker.io/library/a:1")
                && !wanted.contains("bank", "docker.io/library/a:1")
        );
        wanted.release(&[one, one]);
        assert!(!wanted.contains("shop", "docker.io/library/a:1"));
    }
}
