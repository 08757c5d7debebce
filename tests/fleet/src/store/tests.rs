//! Tests of the image store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use prewarmer_api::image::ImageRef;
use proptest::prelude::*;

use super::*;
use crate::image::LayerSize;

fn reference(text: &str) -> ImageRef {
    format!("registry.example/{text}").parse().unwrap()
}

fn layer(name: &str, bytes: u64) -> Layer {
    let size = LayerSize { compressed: bytes, unpacked: bytes };
    Layer { digest: Digest::of(&[name.as_bytes()]), size }
}

fn image(layers: &[(&str, u64)]) -> Arc<Image> {
    Arc::new(Image::new(layers.iter().map(|(name, bytes)| layer(name, *bytes)).collect(), None))
}

/// Store without blobs, so that a layer occupies its unpacked bytes.
fn store(capacity: u64) -> ImageStore {
    ImageStore::new(Disk { capacity, reserved: 0, keeps_blobs: false })
}

/// Adds an image as a pull does.
fn pull(store: &mut ImageStore, image: &Arc<Image>, name: &str) -> Result<(), StoreError> {
    let mut held = Vec::new();
    let mut result = Ok(());
    for layer in image.layers() {
        if !store.retain_layer(&layer.digest) {
            result = store.add_layer(layer, 1);
        }
        if result.is_err() {
            break;
        }
        held.push(layer.digest);
    }
    let result = result.and_then(|()| store.add_image(image, &reference(name), &[]));
    for digest in held {
        store.release_layer(&digest);
    }
    result
}

fn policy() -> GcPolicy {
    GcPolicy::default()
}

fn at(minutes: u64) -> SimTime {
    SimTime::from_secs(minutes * 60)
}

fn collect(store: &mut ImageStore, in_use: &[&Arc<Image>], minutes: u64) -> GcReport {
    let in_use: BTreeSet<Digest> = in_use.iter().map(|image| image.id()).collect();
    store.collect(&policy(), &in_use, SimTime::ZERO, at(minutes))
}

/// Returns the names by tag of the evicted images.
fn tags(report: &GcReport) -> Vec<&str> {
    let names = report.evictions.iter().flat_map(|e| e.names.iter().map(String::as_str));
    names.filter(|name| !name.contains('@')).collect()
}

#[test]
fn a_shared_layer_is_stored_once_and_freed_with_its_last_image() {
    let mut store = store(1_000_000);
    let (one, two) = (image(&[("base", 500), ("a", 10)]), image(&[("base", 500), ("b", 20)]));
    pull(&mut store, &one, "a:1").unwrap();
    pull(&mut store, &two, "b:1").unwrap();
    assert_eq!(store.used_bytes(), 530);
    let evicted = store.evict(&one.id(), EvictionCause::Space).unwrap();
    assert_eq!((evicted.freed, store.used_bytes()), (10, 520));
    let evicted = store.evict(&two.id(), EvictionCause::Space).unwrap();
    assert_eq!((evicted.freed, store.used_bytes()), (520, 0));
    assert!(store.image(&reference("a:1")).is_none());
}

#[test]
fn a_layer_occupies_its_files_and_its_blob_if_that_is_kept() {
    let size = LayerSize { compressed: 30, unpacked: 70 };
    let layer = Layer { digest: Digest::of(&[]), size };
    let used = |keeps_blobs| {
        let mut store = ImageStore::new(Disk { capacity: 1_000, reserved: 500, keeps_blobs });
        store.add_layer(&layer, 1).unwrap();
        (store.used_bytes(), store.free_percent())
    };
    assert_eq!(used(false), (570, 43));
    assert_eq!(used(true), (600, 40));
}

#[test]
fn a_layer_that_does_not_fit_is_rejected() {
    let mut store = store(100);
    let error = pull(&mut store, &image(&[("a", 60), ("b", 60)]), "a:1").unwrap_err();
    assert_eq!(error, StoreError::NoSpace { needed: 60, free: 40 });
    assert_eq!(store.used_bytes(), 0);
    let big = image(&[("c", 101)]);
    assert!(store.preload(&big, &reference("c:1")).is_err());
    assert_eq!(store.used_bytes(), 0);
}

#[test]
fn an_image_without_its_layers_is_rejected() {
    let image = image(&[("a", 60)]);
    let error = store(100).add_image(&image, &reference("a:1"), &[]).unwrap_err();
    assert_eq!(error, StoreError::MissingLayer(image.layers()[0].digest));
}

#[test]
fn a_moved_tag_leaves_the_old_image_with_its_digest() {
    let mut store = store(1_000);
    let (old, new) = (image(&[("a", 60)]), image(&[("b", 60)]));
    pull(&mut store, &old, "a:1").unwrap();
    pull(&mut store, &new, "a:1").unwrap();
    assert_eq!(store.image(&reference("a:1")).unwrap().image(), &new);
    let by_digest = reference(&format!("a@{}", old.digest()));
    assert_eq!(store.image(&by_digest).unwrap().image(), &old);
    let status = store.images_for_status(50);
    let mut counts: Vec<usize> = status.iter().map(|image| image.names.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
}

#[test]
fn images_are_accessible_with_the_credentials_of_their_pull() {
    let mut store = store(1_000);
    let image = image(&[("a", 60)]);
    let secret = |name: &str| vec![name.to_owned()];
    store.add_layer(&image.layers()[0], 1).unwrap();
    store.add_image(&image, &reference("a:1"), &secret("shop/one")).unwrap();
    let stored = |store: &ImageStore| store.image(&reference("a:1")).unwrap().clone();
    assert!(stored(&store).is_accessible(&secret("shop/one")));
    assert!(!stored(&store).is_accessible(&secret("shop/two")));
    assert!(!stored(&store).is_accessible(&[]));
    store.add_image(&image, &reference("a:1"), &[]).unwrap();
    assert!(stored(&store).is_accessible(&[]));
}

#[test]
fn nothing_is_removed_below_the_high_threshold() {
    let mut store = store(1_000);
    pull(&mut store, &image(&[("a", 840)]), "a:1").unwrap();
    for minutes in [0, 5, 10] {
        assert_eq!(collect(&mut store, &[], minutes), GcReport::default());
    }
}

#[test]
fn an_image_is_removed_at_the_second_pass_at_the_earliest() {
    let mut store = store(1_000);
    pull(&mut store, &image(&[("a", 860)]), "a:1").unwrap();
    let first = collect(&mut store, &[], 0);
    assert!(first.evictions.is_empty() && first.missing == 60);
    assert_eq!(tags(&collect(&mut store, &[], 5)), ["registry.example/a:1"]);
}

/// The sizes of metadata count: `Image::size` adds 8 KiB to the layers.
#[test]
fn removal_stops_when_reported_sizes_reach_the_low_threshold() {
    let mut store = store(1_000_000);
    for (name, bytes) in [("a", 300_000), ("b", 300_000), ("c", 300_000)] {
        pull(&mut store, &image(&[(name, bytes)]), &format!("{name}:1")).unwrap();
        collect(&mut store, &[], 0);
    }
    let report = collect(&mut store, &[], 5);
    assert_eq!((report.evictions.len(), report.missing), (1, 0));
}

#[test]
fn images_never_used_are_removed_first_then_the_least_recently_used() {
    let mut store = store(1_000_000);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| image(&[(name, 290_000)]));
    for (image, name) in [(&a, "a:1"), (&b, "b:1"), (&c, "c:1")] {
        pull(&mut store, image, name).unwrap();
    }
    assert!(collect(&mut store, &[&a, &b], 5).evictions.is_empty());
    assert_eq!(tags(&collect(&mut store, &[&b], 10)), ["registry.example/c:1"]);
    pull(&mut store, &d, "d:1").unwrap();
    assert_eq!(tags(&collect(&mut store, &[&d], 15)), ["registry.example/a:1"]);
}

#[test]
fn images_in_use_are_kept_whatever_the_pressure() {
    let mut store = store(1_000);
    let image = image(&[("a", 990)]);
    pull(&mut store, &image, "a:1").unwrap();
    for minutes in [0, 5, 10] {
        let report = collect(&mut store, &[&image], minutes);
        assert!(report.evictions.is_empty() && report.missing == 190);
    }
    let in_use = BTreeSet::from([image.id()]);
    assert!(store.remove_unused(&policy(), &in_use, at(15)).is_empty());
    assert_eq!(store.remove_unused(&policy(), &BTreeSet::new(), at(15)).len(), 1);
}

#[test]
fn images_older_than_the_maximum_age_are_removed_once_the_kubelet_has_run_for_longer() {
    let mut store = store(1_000);
    let (used, unused) = (image(&[("a", 10)]), image(&[("b", 10)]));
    pull(&mut store, &used, "a:1").unwrap();
    pull(&mut store, &unused, "b:1").unwrap();
    let policy = GcPolicy { max_age: Some(Duration::from_secs(3_600)), ..policy() };
    let in_use = BTreeSet::from([used.id()]);
    let mut pass = |in_use: &BTreeSet<Digest>, minutes| {
        store.collect(&policy, in_use, SimTime::ZERO, at(minutes)).evictions.len()
    };
    assert_eq!(pass(&in_use, 60), 0);
    assert_eq!(pass(&in_use, 65), 1);
    assert_eq!(pass(&BTreeSet::new(), 120), 0);
    assert_eq!(pass(&BTreeSet::new(), 130), 1);
}

#[test]
fn bytes_are_in_vain_unless_a_workload_has_used_the_layer() {
    let mut store = store(1_000_000);
    let (used, unused) = (image(&[("base", 500), ("a", 10)]), image(&[("base", 500), ("b", 20)]));
    let baked = image(&[("c", 70)]);
    pull(&mut store, &used, "a:1").unwrap();
    pull(&mut store, &unused, "b:1").unwrap();
    store.preload(&baked, &reference("c:1")).unwrap();
    store.mark_used(&used.id());
    let vain = |evicted: Option<Eviction>| evicted.map(|e| (e.was_used, e.bytes_in_vain));
    assert_eq!(vain(store.evict(&unused.id(), EvictionCause::Space)), Some((false, 20)));
    assert_eq!(vain(store.evict(&used.id(), EvictionCause::Space)), Some((true, 0)));
    assert_eq!(vain(store.evict(&baked.id(), EvictionCause::Space)), Some((false, 0)));
}

#[test]
fn the_status_has_the_largest_images_with_names_by_digest_first() {
    let mut store = store(1_000_000);
    for bytes in 1..=60 {
        let name = format!("l{bytes}");
        pull(&mut store, &image(&[(&name, bytes)]), &format!("a{bytes}:1")).unwrap();
    }
    let largest = image(&[("l60", 60)]);
    for tag in 2..10 {
        pull(&mut store, &largest, &format!("a60:{tag}")).unwrap();
    }
    let status = store.images_for_status(50);
    assert_eq!(status.len(), 50);
    assert!(status.windows(2).all(|pair| pair[0].size >= pair[1].size));
    assert_eq!(status[0].size, largest.size());
    assert_eq!(status[0].names.len(), 5);
    assert!(status[0].names[0].contains('@') && !status[0].names[1].contains('@'));
}

/// Step of a random history of a store.
#[derive(Debug, Clone)]
enum Step {
    Pull(usize),
    Use(usize),
    StopUse(usize),
    Collect,
    RemoveUnused,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_usize).prop_map(Step::Pull),
        2 => (0..8_usize).prop_map(Step::Use),
        2 => (0..8_usize).prop_map(Step::StopUse),
        2 => Just(Step::Collect),
        1 => Just(Step::RemoveUnused),
    ]
}

/// Images of two or three layers, of which neighbours share one.
fn images() -> Vec<Arc<Image>> {
    let layer_names: Vec<String> = (0..9).map(|index| format!("layer-{index}")).collect();
    (0..8)
        .map(|index: usize| {
            let bytes = 100 + 40 * index as u64;
            image(&[("base", 150), (&layer_names[index], bytes), (&layer_names[index + 1], bytes)])
        })
        .collect()
}

fn occupied(store: &ImageStore) -> u64 {
    let layers: BTreeSet<(Digest, u64)> = store
        .images
        .values()
        .flat_map(|image| image.image.layers())
        .map(|layer| (layer.digest, store.layers[&layer.digest].bytes))
        .collect();
    layers.iter().map(|(_, bytes)| bytes).sum()
}

proptest! {
    #[test]
    fn used_bytes_are_those_of_the_layers_of_all_images(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut store = store(1_500);
        let images = images();
        let mut in_use: BTreeSet<usize> = BTreeSet::new();
        for (pass, step) in steps.into_iter().enumerate() {
            let now = at(5 * pass as u64);
            let ids = |in_use: &BTreeSet<usize>| -> BTreeSet<Digest> {
                in_use.iter().map(|index| images[*index].id()).collect()
            };
            match step {
                // A pull to a full disk fails.
                Step::Pull(index) => {
                    let _ = pull(&mut store, &images[index], &format!("a{index}:1"));
                }
                Step::Use(index) => {
                    if store.has_image(&images[index].id()) {
                        in_use.insert(index);
                    }
                }
                Step::StopUse(index) => {
                    in_use.remove(&index);
                }
                Step::Collect => {
                    store.collect(&policy(), &ids(&in_use), SimTime::ZERO, now);
                }
                Step::RemoveUnused => {
                    store.remove_unused(&policy(), &ids(&in_use), now);
                }
            }
            prop_assert_eq!(store.used_bytes(), occupied(&store));
            prop_assert!(store.used_bytes() <= 1_500);
            prop_assert!(in_use.iter().all(|index| store.has_image(&images[*index].id())));
            let referenced = store.layers.values().all(|layer| layer.users > 0);
            prop_assert!(referenced, "a layer without references is kept");
        }
    }
}
