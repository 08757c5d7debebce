//! Tests of the number of lookups of one object.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rstest::rstest;
use serde_json::json;

use super::{
    super::{dedup_keys::dedup_keys, hint::Hint},
    lookup_memory::{
        LOOKUP_DELAYS_MS, LookupMemory, MAX_OBJECTS_IN_MEMORY, MEMORY_TTL, OutcomeScope,
    },
    lookups::{MAX_LOOKUP_WAIT, MISS_COST},
    tests::{LONG, QueueFixture, WINDOW, rates, stored_objects, workload},
    work::{LookupResult, OfferOutcome},
};
use crate::task::Amount;

const MINUTE: Duration = Duration::from_secs(60);

/// Objects of the namespace `shop` as UID, version and image of `web`.
type Stored = std::collections::BTreeMap<(String, String), (String, String, String)>;

fn web(uid: &str, version: &str, image: &str) -> Stored {
    [(("shop".into(), "web".into()), (uid.into(), version.into(), image.into()))].into()
}

/// Offers the hint of `of` every 100 ms for a minute, and returns the number of lookups.
fn lookups_in_a_minute(
    bench: &mut QueueFixture,
    stored: &Stored,
    of: impl Fn(&QueueFixture, usize) -> Hint,
) -> usize {
    let before = bench.lookup_count();
    for n in 0..600 {
        bench.offer(of(bench, n));
        bench.run(MINUTE / 600, stored);
    }
    bench.run(LONG, stored);
    bench.lookup_count() - before
}

#[test]
fn equal_reviews_of_a_stored_object_cause_one_lookup() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let there = web("u-1", "7", "stored:1");
    let count = lookups_in_a_minute(&mut bench, &there, |bench, _| {
        bench.hint("shop", "web", "u-1", "claimed:1")
    });
    assert_eq!((count, bench.hints.len()), (1, 1));
}

#[test]
fn equal_reviews_of_a_missing_object_cause_the_lookups_of_one() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let count = lookups_in_a_minute(&mut bench, &Stored::new(), |bench, _| {
        bench.hint("shop", "web", "u-1", "claimed:1")
    });
    assert_eq!((count, bench.hints.len()), (LOOKUP_DELAYS_MS.len(), 0));
}

#[test]
fn equal_reviews_of_a_change_that_is_not_stored_cause_the_lookups_of_one() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let there = web("u-1", "7", "stored:1");
    let count = lookups_in_a_minute(&mut bench, &there, |bench, _| {
        bench.hint("shop", "web", "u-1", "claimed:1").with_replaced_version("7")
    });
    assert_eq!((count, bench.hints.len()), (LOOKUP_DELAYS_MS.len(), 0));
}

/// Reviews whose sender varies what it invents about one object.
#[rstest]
#[case::uids(true, |n| format!("u-{n}"), |_| "claimed:1".into())]
#[case::images(true, |_| "u-1".into(), |n| format!("claimed:{n}"))]
#[case::uids_of_no_object(false, |n| format!("u-{n}"), |_| "claimed:1".into())]
#[case::images_of_no_object(false, |_| "u-1".into(), |n| format!("claimed:{n}"))]
fn different_reviews_of_one_object_cause_lookups_with_growing_delays(
    #[case] is_stored: bool,
    #[case] uid: fn(usize) -> String,
    #[case] image: fn(usize) -> String,
) {
    let mut bench = QueueFixture::new(rates(100, 50));
    let there = if is_stored { web("u-1", "7", "stored:1") } else { Stored::new() };
    let forged = |bench: &QueueFixture, n: usize| bench.hint("shop", "web", &uid(n), &image(n));
    let count = lookups_in_a_minute(&mut bench, &there, forged);
    // After 0, 0, 0.25, 1, 3 and 8 s, and then after 18 and 38 s.
    assert!((1..=8).contains(&count), "{count}");
}

#[test]
fn each_stored_template_is_looked_up_at_once() {
    let mut bench = QueueFixture::new(rates(100, 50));
    for n in 0..10 {
        let (image, version) = (format!("app:{n}"), (n + 1).to_string());
        let change = bench.hint("shop", "web", "u-1", &image).with_replaced_version(&n.to_string());
        assert_eq!(bench.offer(change), OfferOutcome::Queued);
        bench.run(WINDOW, &web("u-1", &version, &image));
        assert_eq!((bench.lookup_count(), bench.hints.len()), (n + 1, n + 1));
    }
}

#[test]
fn a_rollback_to_an_earlier_image_is_looked_up() {
    let mut bench = QueueFixture::new(rates(100, 50));
    for (n, image) in ["app:1", "app:2", "app:1", "app:2"].into_iter().enumerate() {
        let change = bench.hint("shop", "web", "u-1", image).with_replaced_version(&n.to_string());
        assert_eq!(bench.offer(change), OfferOutcome::Queued);
        bench.run(WINDOW, &web("u-1", &(n + 1).to_string(), image));
        assert_eq!(bench.hints.len(), n + 1, "{image}");
        assert_eq!(bench.hints[n].workloads[0].images[0].as_written(), image);
    }
}

#[test]
fn an_object_that_is_created_again_is_looked_up() {
    let mut bench = QueueFixture::new(rates(100, 50));
    for uid in ["u-1", "u-2", "u-3"] {
        assert_eq!(bench.offer(bench.hint("shop", "web", uid, "app:1")), OfferOutcome::Queued);
        bench.run(WINDOW, &web(uid, "7", "app:1"));
    }
    assert_eq!((bench.lookup_count(), bench.hints.len()), (3, 3));
}

#[test]
fn changed_options_are_looked_up() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let there = web("u-1", "7", "app:1");
    let with_nodes = |bench: &QueueFixture, nodes: u32| {
        let mut workload = workload("shop", "web", "app:1");
        workload.options.nodes = Amount::Count(nodes);
        let hint = bench.hint("shop", "web", "u-1", "app:1").with_replaced_version("6");
        hint.with_workloads(&[workload], Vec::new())
    };
    for nodes in [3, 7] {
        let change = with_nodes(&bench, nodes);
        assert_eq!(bench.offer(change.clone()), OfferOutcome::Queued);
        bench.run(Duration::from_secs(1), &there);
        assert_eq!(bench.offer(change), OfferOutcome::Duplicate);
    }
    assert_eq!(bench.hints.len(), 2);
}

#[test]
fn an_object_that_cannot_be_read_is_looked_up_once() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let hint = bench.hint("shop", "web", "u-1", "app:1");
    bench.offer(hint.clone());
    bench.now += WINDOW;
    let lookup = bench.queue.process_due(bench.now, |_| true, |_| false).lookups.remove(0);
    let step = bench.queue.handle_lookup_result(lookup.id, LookupResult::Forbidden, bench.now);
    assert_eq!((step.discarded.forbidden, bench.queue.len()), (1, 0));
    assert_eq!(bench.offer(hint.clone()), OfferOutcome::Forbidden);
    bench.now += MEMORY_TTL;
    assert_eq!(bench.offer(hint), OfferOutcome::Queued);
}

#[test]
fn hints_during_a_lookup_do_not_repeat_it_without_delay() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.offer(bench.hint("shop", "web", "u-0", "app:1"));
    let (end, mut lookups) = (bench.now + MINUTE, 0);
    while let Some(at) = bench.queue.next_deadline().filter(|at| *at < end) {
        bench.now = at;
        for lookup in bench.queue.process_due(at, |_| true, |_| false).lookups {
            lookups += 1;
            bench.offer(bench.hint("shop", "web", &format!("u-{lookups}"), "app:1"));
            bench.queue.handle_lookup_result(lookup.id, LookupResult::Missing, at);
        }
    }
    assert!(lookups <= LOOKUP_DELAYS_MS.len() + 1, "{lookups}");
    assert_eq!(bench.queue.len(), 0);
}

#[test]
fn lookups_that_find_nothing_use_up_the_rate_of_their_namespace() {
    let mut bench = QueueFixture::new(rates(100, 50));
    for n in 0..1000 {
        bench.offer(bench.hint("bank", &format!("forged-{n}"), "u", "claimed:1"));
    }
    bench.run(WINDOW + MAX_LOOKUP_WAIT + Duration::from_secs(1), &Stored::new());
    let (burst, rate) = (500 / MISS_COST as usize, 50 / MISS_COST as usize);
    let count = bench.lookup_count();
    assert!((burst..=burst + 12 * rate).contains(&count), "{count}");
    assert_eq!(bench.queue.len(), 0, "the watch finds objects that wait longer");
    assert_eq!(bench.discarded.dropped + bench.discarded.not_stored, 1000);
}

#[test]
fn an_upgrade_of_a_namespace_is_not_dropped() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let names: Vec<String> = (0..900).map(|n| format!("w{n}")).collect();
    let objects: Vec<(&str, &str, &str)> =
        names.iter().map(|name| ("shop", name.as_str(), "u")).collect();
    for name in &names {
        bench.offer(bench.hint("shop", name, "u", "claimed:1"));
    }
    bench.run(LONG, &stored_objects(&objects));
    assert_eq!((bench.hints.len(), bench.discarded.dropped), (900, 0));
}

#[test]
fn memory_is_bounded_and_keeps_other_namespaces() {
    let (mut memory, now) = (LookupMemory::default(), Instant::now());
    let fixture = QueueFixture::new(rates(100, 50));
    let victim = fixture.hint("shop", "web", "u", "app:1");
    let (shop, bank): (Arc<str>, Arc<str>) = ("shop".into(), "bank".into());
    let object = memory.object_key(&victim);
    memory.record(&shop, object, &LookupResult::Missing, now);
    let not_stored = (OutcomeScope::Object, OfferOutcome::NotStored);
    memory.settle(&shop, object, std::slice::from_ref(&victim), not_stored, now);
    for n in 0..3 * MAX_OBJECTS_IN_MEMORY as u64 {
        memory.record(&bank, n, &LookupResult::Missing, now + Duration::from_micros(n));
        assert!(memory.len() <= MAX_OBJECTS_IN_MEMORY);
    }
    assert_eq!(memory.outcome("shop", object, &victim, now), Some(OfferOutcome::NotStored));
    assert!(memory.next_lookup_at("shop", object).is_some());
    assert_eq!(memory.next_lookup_at("bank", 0), None);
    assert!(memory.next_lookup_at("bank", 3 * MAX_OBJECTS_IN_MEMORY as u64 - 1).is_some());
    // Also where all objects have the same time.
    for n in 0..2 * MAX_OBJECTS_IN_MEMORY as u64 {
        memory.record(&bank, n + 1_000_000, &LookupResult::Missing, now);
        assert!(memory.len() <= MAX_OBJECTS_IN_MEMORY);
    }
    assert_eq!(memory.outcome("shop", object, &victim, now + MEMORY_TTL), None);
}

#[test]
fn equal_changes_have_equal_hashes() {
    let fixture = QueueFixture::new(rates(100, 50));
    let (mut memory, now) = (LookupMemory::default(), Instant::now());
    let shop: Arc<str> = "shop".into();
    let hint = fixture.hint("shop", "web", "u", "app:1").with_replaced_version("7");
    let object = memory.object_key(&hint);
    let duplicate = (OutcomeScope::Change, OfferOutcome::Duplicate);
    memory.settle(&shop, object, std::slice::from_ref(&hint), duplicate, now);
    let found = |hint: &Hint| memory.outcome("shop", object, hint, now);
    assert_eq!(found(&hint), Some(OfferOutcome::Duplicate));
    let kept = dedup_keys(&workload("shop", "web", "app:0"));
    for other in [
        hint.clone().with_replaced_version("8"),
        hint.clone().with_workloads(&[workload("shop", "web", "app:2")], Vec::new()),
        hint.clone().with_workloads(&[workload("shop", "web", "app:1")], kept),
        fixture.hint("shop", "web", "u-2", "app:1").with_replaced_version("7"),
    ] {
        assert_eq!(found(&other), None, "{other:?}");
    }
    let kind = fixture.kinds.find_by_api_version("apps/v1", "StatefulSet").unwrap();
    let object_of_other_kind =
        kind.parse_value(json!({"metadata": {"name": "web", "uid": "u"}})).unwrap();
    let other = Hint::new(kind, "shop", &object_of_other_kind).unwrap();
    assert_ne!(memory.object_key(&other), object);
}
