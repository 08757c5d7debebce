//! Memory of the images of pods and Jobs whose controllers are of unknown kinds. It states which of
//! these images recur.
//!
//! Only stored objects are recorded, since anyone who reaches the webhook's port can send reviews.
//! An owner reference is the statement of the user who created the object: it decides about images of
//! the user's own namespace only.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{image::ImageRef, shrink_sparse, workload::OwnerKind};

/// Time after its first sight from which an image recurs: as long as a completed task covers its
/// images, so that pods within it would have shared the first one's task. Pods that a controller
/// creates together, and the steps of a pipeline with an image of their own, are within it.
pub(super) const RECURRENCE_DISTANCE: Duration = Duration::from_secs(3600);
/// Time after its latest sight for which an image is remembered: a day, and two hours for late starts
/// and the end of daylight saving time, so that the images of a daily pipeline recur.
pub(super) const IMAGE_TTL: Duration = Duration::from_secs(26 * 3600);
/// Maximum number of remembered images per namespace. Above it, its older half is forgotten.
pub(super) const MAX_NAMESPACE_IMAGES: usize = 1024;
/// Maximum number of remembered images of all namespaces, at 40 bytes each in tables that are half
/// empty: 1.3 MB. Above it, the older half of the namespace with the most images is forgotten.
pub(super) const MAX_REMEMBERED_IMAGES: usize = 16 * MAX_NAMESPACE_IMAGES;

/// Hash of a controller's kind and an image with a random key, which no client can predict.
type ImageKey = u64;

#[derive(Debug, Clone, Copy)]
struct Sighting {
    first: Instant,
    latest: Instant,
}

impl Sighting {
    fn is_expired(&self, now: Instant) -> bool {
        now >= self.latest + IMAGE_TTL
    }
}

/// Images of recent objects by namespace, each with the kind of the controller.
#[derive(Debug, Default)]
pub(super) struct RecurringImages {
    hasher: RandomState,
    namespaces: HashMap<Arc<str>, HashMap<ImageKey, Sighting>>,
    len: usize,
}

impl RecurringImages {
    /// Records an image of an object that a controller of this kind created, and reports whether it
    /// recurs: whether an earlier object with it was created [`RECURRENCE_DISTANCE`] ago or more.
    pub(super) fn observe(
        &mut self,
        namespace: &Arc<str>,
        owner: &OwnerKind,
        image: &ImageRef,
        now: Instant,
    ) -> bool {
        let key = self.hasher.hash_one((owner, image.normalized()));
        let known = self.namespaces.get_mut(namespace).and_then(|images| images.get_mut(&key));
        if let Some(known) = known {
            if known.is_expired(now) {
                known.first = now;
            }
            known.latest = now;
            return now >= known.first + RECURRENCE_DISTANCE;
        }
        self.make_space(namespace, now);
        let images = self.namespaces.entry(Arc::clone(namespace)).or_default();
        images.insert(key, Sighting { first: now, latest: now });
        self.len += 1;
        false
    }

    /// Makes space for one more image of the namespace.
    fn make_space(&mut self, namespace: &Arc<str>, now: Instant) {
        if let Some(images) = self.namespaces.get_mut(namespace)
            && images.len() >= MAX_NAMESPACE_IMAGES
        {
            forget_older_half(images, now);
            self.count();
        }
        if self.len >= MAX_REMEMBERED_IMAGES {
            for images in self.namespaces.values_mut() {
                images.retain(|_, known| !known.is_expired(now));
            }
            self.count();
        }
        if self.len >= MAX_REMEMBERED_IMAGES
            && let Some(largest) = self.namespaces.values_mut().max_by_key(|images| images.len())
        {
            forget_older_half(largest, now);
            self.count();
        }
    }

    fn count(&mut self) {
        self.namespaces.retain(|_, images| {
            shrink_sparse(images);
            !images.is_empty()
        });
        shrink_sparse(&mut self.namespaces);
        self.len = self.namespaces.values().map(HashMap::len).sum();
    }
}

/// Forgets what has expired, and where that is less than a half, the images that were not seen for
/// the longest time.
fn forget_older_half(images: &mut HashMap<ImageKey, Sighting>, now: Instant) {
    let half = images.len() / 2;
    images.retain(|_, known| !known.is_expired(now));
    if images.len() <= half {
        return;
    }
    let mut times: Vec<Instant> = images.values().map(|known| known.latest).collect();
    times.sort_unstable();
    let excess = images.len() - half;
    let newest = times[excess - 1];
    // Of the images that were seen at the same time as the newest of the excess, so many are forgotten.
    let mut equal = excess - times.partition_point(|time| *time < newest);
    images.retain(|_, known| {
        let is_equal = known.latest == newest && equal > 0;
        equal -= usize::from(is_equal);
        known.latest >= newest && !is_equal
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(kind: &str) -> OwnerKind {
        OwnerKind { group: "a.b".into(), kind: kind.into() }
    }

    fn image(n: usize) -> ImageRef {
        format!("app-{n}:1").parse().unwrap()
    }

    /// Objects of few namespaces, kinds and images, each some hours and seconds after the one before.
    fn objects() -> impl Strategy<Value = Vec<(usize, usize, usize, u64)>> {
        let pause = prop_oneof![
            0..90_u64,
            3590..3610_u64,
            26 * 3600 - 5..26 * 3600 + 5_u64,
            0..200_000_u64
        ];
        prop::collection::vec((0..2_usize, 0..2_usize, 0..3_usize, pause), 1..60)
    }

    /// Reports whether the last of these times, in seconds, is an hour or more after the first of the
    /// times that follow one another within 26 hours.
    fn recurs(times: &[u64]) -> bool {
        let gap = times.windows(2).rposition(|pair| pair[1] - pair[0] >= 26 * 3600);
        let recent = &times[gap.map_or(0, |gap| gap + 1)..];
        recent[recent.len() - 1] - recent[0] >= 3600
    }

    proptest! {
        /// Compares the memory with the complete history of each namespace, kind and image.
        #[test]
        fn images_recur_by_their_history(objects in objects()) {
            let (mut memory, begun) = (RecurringImages::default(), Instant::now());
            let namespaces: [Arc<str>; 2] = ["shop".into(), "bank".into()];
            let (mut history, mut now) = (HashMap::<_, Vec<u64>>::new(), 0);
            for (namespace, kind, number, pause) in objects {
                now += pause;
                let times = history.entry((namespace, kind, number)).or_default();
                times.push(now);
                let (namespace, kind) = (&namespaces[namespace], owner(["Run", "Build"][kind]));
                let at = begun + Duration::from_secs(now);
                prop_assert_eq!(memory.observe(namespace, &kind, &image(number), at), recurs(times));
            }
        }
    }

    #[test]
    fn api_groups_are_distinguished_and_names_of_one_image_are_not() {
        let (mut memory, shop, now) = (RecurringImages::default(), "shop".into(), Instant::now());
        let (run, later) = (owner("Run"), now + RECURRENCE_DISTANCE);
        memory.observe(&shop, &run, &"nginx".parse().unwrap(), now);
        let other = OwnerKind { group: "c.d".into(), ..run.clone() };
        assert!(!memory.observe(&shop, &other, &"nginx".parse().unwrap(), later));
        let same = "docker.io/library/nginx:latest".parse().unwrap();
        assert!(memory.observe(&shop, &run, &same, later));
    }

    #[test]
    fn new_images_of_a_namespace_forget_only_its_own_and_the_oldest_first() {
        let (mut memory, begun) = (RecurringImages::default(), Instant::now());
        let (shop, noisy): (Arc<str>, Arc<str>) = ("shop".into(), "noisy".into());
        let run = owner("Run");
        memory.observe(&shop, &run, &image(0), begun);
        memory.observe(&noisy, &run, &image(0), begun);
        for n in 1..=3 * MAX_NAMESPACE_IMAGES {
            let at = begun + Duration::from_secs(n as u64);
            memory.observe(&noisy, &run, &image(n), at);
            // Seen again and again, it is never among the older half.
            memory.observe(&noisy, &run, &image(1), at);
            assert!(memory.namespaces[&noisy].len() <= MAX_NAMESPACE_IMAGES);
        }
        let later = begun + Duration::from_secs(4 * 3600);
        assert!(memory.observe(&shop, &run, &image(0), later), "another namespace forgot it");
        assert!(memory.observe(&noisy, &run, &image(1), later), "the latest half was forgotten");
        assert!(!memory.observe(&noisy, &run, &image(0), later), "the oldest was kept");
    }

    #[test]
    fn images_seen_at_the_same_time_are_forgotten_by_half() {
        let (mut memory, now) = (RecurringImages::default(), Instant::now());
        let (shop, run) = (Arc::from("shop"), owner("Run"));
        for n in 0..=MAX_NAMESPACE_IMAGES {
            memory.observe(&shop, &run, &image(n), now);
        }
        assert_eq!(memory.len, MAX_NAMESPACE_IMAGES / 2 + 1);
        assert_eq!(memory.namespaces[&shop].len(), memory.len);
    }

    #[test]
    fn a_full_memory_forgets_images_of_the_largest_namespace() {
        let (mut memory, begun) = (RecurringImages::default(), Instant::now());
        let run = owner("Run");
        let small: Arc<str> = "small".into();
        memory.observe(&small, &run, &image(0), begun);
        for n in 0..2 * MAX_REMEMBERED_IMAGES {
            let namespace: Arc<str> = format!("n-{}", n % 40).into();
            memory.observe(&namespace, &run, &image(n), begun + Duration::from_millis(n as u64));
            assert!(memory.len <= MAX_REMEMBERED_IMAGES);
        }
        assert!(memory.observe(&small, &run, &image(0), begun + RECURRENCE_DISTANCE));
        let expired = begun + 2 * IMAGE_TTL;
        memory.observe(&small, &run, &image(1), expired);
        for n in 0..MAX_NAMESPACE_IMAGES {
            memory.observe(&"n-0".into(), &run, &image(n), expired);
        }
        assert!(memory.len <= MAX_REMEMBERED_IMAGES);
    }
}
