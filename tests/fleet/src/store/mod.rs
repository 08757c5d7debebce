//! Image store of one node: layers with reference counts, images by name, and the disk they use.
//!
//! Facts: containerd stores the compressed blob and the unpacked files of each layer, and drops
//! both when no image and no pull refers to them (`discard_unpacked_layers` is false by default). A
//! layer is identified by its digest alone; in containerd the unpacked files of a layer above
//! different parents exist twice, which generated images never need, since they share layers at
//! the bottom only.

mod gc;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prewarmer_api::image::ImageRef;

pub use self::gc::{Eviction, EvictionCause, GcPolicy, GcReport};
use crate::{
    image::{Digest, Image, Layer},
    time::SimTime,
};

/// Maximum number of names of one image in a node's status
/// (`MaxNamesPerImageInNodeStatus` in `pkg/kubelet/nodestatus`).
const MAX_STATUS_NAMES: usize = 5;

/// Error of a change to an image store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk has less free space than a layer needs.
    #[error("no space left on device: {needed} bytes are needed, {free} are free")]
    NoSpace {
        /// Bytes that the layer needs.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// An image was added without one of its layers.
    #[error("layer {0} is missing")]
    MissingLayer(Digest),
}

/// Disk of a node that holds its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Capacity, in bytes.
    pub capacity: u64,
    /// Bytes used by anything but images, such as the operating system and logs.
    pub reserved: u64,
    /// True if the compressed blobs of layers are kept after unpacking: true unless containerd's
    /// `discard_unpacked_layers` is set.
    pub keeps_blobs: bool,
}

impl Disk {
    /// Returns the bytes that a layer occupies.
    fn occupied(self, layer: &Layer) -> u64 {
        let blob = if self.keeps_blobs { layer.size.compressed } else { 0 };
        layer.size.unpacked.saturating_add(blob)
    }
}

/// Layer in the store.
#[derive(Debug, Clone, Copy)]
struct StoredLayer {
    /// Occupied bytes.
    bytes: u64,
    compressed: u64,
    /// Number of images and pulls that refer to it.
    users: u32,
    /// True if it was downloaded, rather than part of the machine's image.
    is_downloaded: bool,
    /// True if a container of a workload has used it.
    is_used: bool,
}

/// Credentials with which an image may be used without a request to the registry
/// (`KubeletEnsureSecretPulledImages`, enabled since Kubernetes 1.35).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Access {
    /// True if it was pulled without credentials, or was part of the machine's image.
    is_public: bool,
    /// Pull secrets with which it was pulled, as `namespace/name`.
    secrets: BTreeSet<String>,
}

/// Image in the store.
#[derive(Debug, Clone)]
pub struct StoredImage {
    image: Arc<Image>,
    names: BTreeSet<String>,
    access: Access,
    is_used: bool,
    first_detected: Option<SimTime>,
    last_used: Option<SimTime>,
}

impl StoredImage {
    /// Returns the image.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Reports whether a pod with these pull secrets may use the image without a pull.
    #[must_use]
    pub fn is_accessible(&self, secrets: &[String]) -> bool {
        self.access.is_public || secrets.iter().any(|secret| self.access.secrets.contains(secret))
    }
}

/// Image in a node's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedImage {
    /// Names by digest, then names by tag; at most five.
    pub names: Vec<String>,
    /// Size as the container runtime reports it, in bytes.
    pub size: u64,
}

/// Images and layers of one node.
#[derive(Debug)]
pub struct ImageStore {
    disk: Disk,
    layers: BTreeMap<Digest, StoredLayer>,
    /// Images by image ID.
    images: BTreeMap<Digest, StoredImage>,
    /// Image IDs by name.
    names: BTreeMap<String, Digest>,
    /// Bytes occupied by layers.
    layer_bytes: u64,
    /// Number of changes to images and their names.
    revision: u64,
}

impl ImageStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self {
            disk,
            layers: BTreeMap::new(),
            images: BTreeMap::new(),
            names: BTreeMap::new(),
            layer_bytes: 0,
            revision: 0,
        }
    }

    /// Returns the image of this name.
    #[must_use]
    pub fn image(&self, reference: &ImageRef) -> Option<&StoredImage> {
        self.images.get(self.names.get(&store_name(reference))?)
    }

    /// Reports whether the store has the image with this ID, under any name.
    #[must_use]
    pub fn has_image(&self, id: &Digest) -> bool {
        self.images.contains_key(id)
    }

    /// Returns a number that changes whenever an image or one of its names is added or removed.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the used bytes of the disk.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk.reserved.saturating_add(self.layer_bytes)
    }

    /// Returns the free bytes of the disk.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.disk.capacity.saturating_sub(self.used_bytes())
    }

    /// Returns the free share of the disk in whole percent, as the kubelet computes it; 0 for a
    /// disk without capacity.
    #[must_use]
    pub fn free_percent(&self) -> u64 {
        let free = u128::from(self.free_bytes()).saturating_mul(100);
        let percent = free.checked_div(u128::from(self.disk.capacity)).unwrap_or_default();
        u64::try_from(percent).unwrap_or_default()
    }

    /// Adds a reference to a layer, and reports whether the store has it.
    pub fn retain_layer(&mut self, digest: &Digest) -> bool {
        let Some(layer) = self.layers.get_mut(digest) else {
            return false;
        };
        layer.users = layer.users.saturating_add(1);
        true
    }

    /// Adds a downloaded layer with this many references. A layer that exists gets the references
    /// in addition.
    pub fn add_layer(&mut self, layer: &Layer, users: u32) -> Result<(), StoreError> {
        self.put_layer(layer, users, true)
    }

    fn put_layer(&mut self, layer: &Layer, users: u32, downloaded: bool) -> Result<(), StoreError> {
        if let Some(stored) = self.layers.get_mut(&layer.digest) {
            stored.users = stored.users.saturating_add(users);
            return Ok(());
        }
        let (needed, free) = (self.disk.occupied(layer), self.free_bytes());
        if needed > free {
            return Err(StoreError::NoSpace { needed, free });
        }
        self.layer_bytes = self.layer_bytes.saturating_add(needed);
        let stored = StoredLayer {
            bytes: needed,
            compressed: layer.size.compressed,
            users,
            is_downloaded: downloaded,
            is_used: false,
        };
        self.layers.insert(layer.digest, stored);
        Ok(())
    }

    /// Removes a reference to a layer. Removes the layer with its last reference, and then returns
    /// the downloaded bytes that no workload has used.
    pub fn release_layer(&mut self, digest: &Digest) -> Option<u64> {
        let layer = self.layers.get_mut(digest)?;
        layer.users = layer.users.saturating_sub(1);
        if layer.users > 0 {
            return None;
        }
        let layer = self.layers.remove(digest)?;
        self.layer_bytes = self.layer_bytes.saturating_sub(layer.bytes);
        let is_in_vain = layer.is_downloaded && !layer.is_used;
        Some(if is_in_vain { layer.compressed } else { 0 })
    }

    /// Adds an image, whose layers the store must have, under the reference and its digest. The
    /// name is taken from the image that had it before. `secrets` are those with which it was
    /// pulled; none for a pull without credentials.
    pub fn add_image(
        &mut self,
        image: &Arc<Image>,
        reference: &ImageRef,
        secrets: &[String],
    ) -> Result<(), StoreError> {
        let id = image.id();
        if !self.images.contains_key(&id) {
            let mut layers = image.layers().iter().map(|layer| layer.digest);
            if let Some(missing) = layers.find(|digest| !self.layers.contains_key(digest)) {
                return Err(StoreError::MissingLayer(missing));
            }
            for layer in image.layers() {
                self.retain_layer(&layer.digest);
            }
            let stored = StoredImage {
                image: Arc::clone(image),
                names: BTreeSet::new(),
                access: Access::default(),
                is_used: false,
                first_detected: None,
                last_used: None,
            };
            self.images.insert(id, stored);
        }
        self.name(id, store_name(reference));
        self.name(id, digest_name(reference, image.digest()));
        if let Some(stored) = self.images.get_mut(&id) {
            stored.access.is_public |= secrets.is_empty();
            stored.access.secrets.extend(secrets.iter().cloned());
        }
        self.revision = self.revision.saturating_add(1);
        Ok(())
    }

    /// Adds an image that is part of the machine's image: nothing is downloaded, and each pod may
    /// use it.
    pub fn preload(&mut self, image: &Arc<Image>, reference: &ImageRef) -> Result<(), StoreError> {
        let mut added = Vec::new();
        let mut result = Ok(());
        for layer in image.layers() {
            result = self.put_layer(layer, 1, false);
            if result.is_err() {
                break;
            }
            added.push(layer.digest);
        }
        let result = result.and_then(|()| self.add_image(image, reference, &[]));
        for digest in added {
            self.release_layer(&digest);
        }
        result
    }

    fn name(&mut self, id: Digest, name: String) {
        let before = self.names.insert(name.clone(), id).filter(|before| *before != id);
        if let Some(image) = before.and_then(|before| self.images.get_mut(&before)) {
            image.names.remove(&name);
        }
        if let Some(image) = self.images.get_mut(&id) {
            image.names.insert(name);
        }
    }

    /// Records that a container of a workload uses an image and its layers.
    pub fn mark_used(&mut self, id: &Digest) {
        let Some(image) = self.images.get_mut(id).filter(|image| !image.is_used) else {
            return;
        };
        image.is_used = true;
        for layer in image.image.layers() {
            if let Some(stored) = self.layers.get_mut(&layer.digest) {
                stored.is_used = true;
            }
        }
    }

    /// Forgets when images were detected and used, as a restarted kubelet does.
    pub fn forget_detection(&mut self) {
        for image in self.images.values_mut() {
            image.first_detected = None;
            image.last_used = None;
        }
    }

    /// Returns the downloaded bytes that no workload has used so far.
    #[must_use]
    pub fn unused_bytes(&self) -> u64 {
        let unused = self.layers.values().filter(|layer| layer.is_downloaded && !layer.is_used);
        unused.map(|layer| layer.compressed).fold(0, u64::saturating_add)
    }

    /// Returns the downloaded bytes of all layers.
    #[cfg(test)]
    pub(crate) fn downloaded_bytes(&self) -> u64 {
        let downloaded = self.layers.values().filter(|layer| layer.is_downloaded);
        downloaded.map(|layer| layer.compressed).sum()
    }

    /// Reports whether only images refer to layers.
    #[cfg(test)]
    pub(crate) fn has_no_pull(&self) -> bool {
        let mut users: BTreeMap<Digest, u32> = BTreeMap::new();
        for layer in self.images.values().flat_map(|image| image.image.layers()) {
            *users.entry(layer.digest).or_default() += 1;
        }
        self.layers.iter().all(|(digest, layer)| users.get(digest) == Some(&layer.users))
    }

    /// Returns the images of the node's status, the largest first; at most this many.
    #[must_use]
    pub fn images_for_status(&self, max: usize) -> Vec<ReportedImage> {
        let mut images: Vec<&StoredImage> = self.images.values().collect();
        // The image ID is the last criterion, so that the order does not depend on the run.
        images
            .sort_by_cached_key(|image| (std::cmp::Reverse(image.image.size()), image.image.id()));
        let report = |image: &StoredImage| {
            let (digests, tags): (Vec<&String>, Vec<&String>) =
                image.names.iter().partition(|name| name.contains('@'));
            let names = digests.into_iter().chain(tags).take(MAX_STATUS_NAMES).cloned().collect();
            ReportedImage { names, size: image.image.size() }
        };
        images.into_iter().take(max).map(report).collect()
    }
}

/// Returns the name under which containerd stores a reference: a tag is dropped if there is a
/// digest (`reference.ParseDockerRef`).
fn store_name(reference: &ImageRef) -> String {
    match reference.digest() {
        Some(digest) => format!("{}/{}@{digest}", reference.registry(), reference.repository()),
        None => reference.normalized().to_owned(),
    }
}

/// Returns the name of an image by its digest.
#[must_use]
pub fn digest_name(reference: &ImageRef, digest: Digest) -> String {
    format!("{}/{}@{digest}", reference.registry(), reference.repository())
}
