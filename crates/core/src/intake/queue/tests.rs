//! Tests of the queue with a simulated clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    super::{
        hint::{ConfirmedHint, Hint},
        rate_limit::RateLimits,
    },
    hint_queue::{
        COALESCE_GRACE, HintQueue, MAX_NAMESPACE_OBJECTS, MAX_OBJECTS, MAX_UNKNOWN_OBJECTS,
    },
    lookup_memory::{LOOKUP_DELAYS_MS, MEMORY_TTL},
    lookups::{MAX_OBJECTS_FOR_RETRY, MISS_COST},
    objects::{MAX_HINTS_PER_OBJECT, merge_hints},
    recurring_images::{IMAGE_TTL, RECURRENCE_DISTANCE},
    work::{DiscardedHints, DueWork, LookupResult, OfferOutcome},
};
use crate::workload::{OwnerKind, Workload, WorkloadKinds};

pub(super) const WINDOW: Duration = Duration::from_millis(200);

pub(super) fn rates(total: u32, namespace: u32) -> RateLimits {
    RateLimits { total, namespace }
}

/// Queue with a simulated clock.
pub(super) struct QueueFixture {
    pub(super) queue: HintQueue,
    pub(super) kinds: WorkloadKinds,
    pub(super) now: Instant,
    /// Namespaces that exist; if empty, all namespaces exist.
    known_namespaces: Vec<String>,
    pub(super) hints: Vec<ConfirmedHint>,
    pub(super) discarded: DiscardedHints,
    not_recurring: usize,
    /// Kind of the controller of the stored objects, if images must recur.
    recurs_for: Option<OwnerKind>,
    lookups: BTreeMap<String, usize>,
}

impl QueueFixture {
    pub(super) fn new(rates: RateLimits) -> Self {
        let now = Instant::now();
        let (hints, lookups, known) = (Vec::new(), BTreeMap::new(), Vec::new());
        let lost = DiscardedHints::default();
        Self {
            queue: HintQueue::new(WINDOW, rates),
            kinds: WorkloadKinds::default(),
            now,
            known_namespaces: known,
            hints,
            discarded: lost,
            not_recurring: 0,
            recurs_for: None,
            lookups,
        }
    }

    pub(super) fn hint(&self, namespace: &str, name: &str, uid: &str, image: &str) -> Hint {
        let kind = self.kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
        let object = kind.parse_value(json!({"metadata": {"name": name, "uid": uid}})).unwrap();
        Hint::new(kind, namespace, &object)
            .unwrap()
            .with_workloads(&[workload(namespace, name, image)], Vec::new())
    }

    pub(super) fn offer(&mut self, claim: Hint) -> OfferOutcome {
        let known =
            self.known_namespaces.is_empty() || self.known_namespaces.contains(&claim.namespace);
        self.queue.push_hint(claim, known, self.now).0
    }

    /// Advances the clock until nothing is due within `time`, and answers lookups from `stored`,
    /// which maps namespace and name to UID, version and image.
    pub(super) fn run(
        &mut self,
        time: Duration,
        stored: &BTreeMap<(String, String), (String, String, String)>,
    ) {
        let end = self.now + time;
        loop {
            let known = self.known_namespaces.clone();
            let step = self.queue.process_due(
                self.now,
                |name| known.is_empty() || known.iter().any(|one| one == name),
                |_| false,
            );
            // Finished lookups free capacity for further lookups.
            let busy = !step.lookups.is_empty();
            self.handle_output(step, stored);
            if busy {
                continue;
            }
            match self.queue.next_deadline().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        self.now = end;
    }

    fn handle_output(
        &mut self,
        step: DueWork,
        stored: &BTreeMap<(String, String), (String, String, String)>,
    ) {
        self.discarded.not_stored += step.discarded.not_stored;
        self.discarded.forbidden += step.discarded.forbidden;
        self.discarded.dropped += step.discarded.dropped;
        self.not_recurring += step.not_recurring;
        self.hints.extend(step.batches.into_iter().flatten());
        for lookup in step.lookups {
            *self.lookups.entry(lookup.namespace.clone()).or_default() += 1;
            let seen = match stored.get(&(lookup.namespace.clone(), lookup.name.clone())) {
                Some((uid, version, image)) => LookupResult::Stored {
                    uid: uid.clone(),
                    version: version.clone(),
                    workloads: vec![workload(&lookup.namespace, &lookup.name, image)],
                    recurs_for: self.recurs_for.clone(),
                },
                None => LookupResult::Missing,
            };
            let step = self.queue.handle_lookup_result(lookup.id, seen, self.now);
            self.handle_output(step, stored);
        }
    }

    pub(super) fn lookup_count(&self) -> usize {
        self.lookups.values().sum()
    }
}

pub(super) fn workload(namespace: &str, name: &str, image: &str) -> Workload {
    Workload {
        kind: "Deployment".into(),
        namespace: namespace.into(),
        name: name.into(),
        images: vec![image.parse().unwrap()],
        ..Workload::default()
    }
}

pub(super) fn stored_objects(
    objects: &[(&str, &str, &str)],
) -> BTreeMap<(String, String), (String, String, String)> {
    let pair = |(namespace, name, uid): &(&str, &str, &str)| {
        (
            ((*namespace).to_owned(), (*name).to_owned()),
            ((*uid).to_owned(), "7".to_owned(), "stored:1".to_owned()),
        )
    };
    objects.iter().map(pair).collect()
}

pub(super) const LONG: Duration = Duration::from_secs(30);

#[test]
fn stored_object_with_matching_uid_confirms_hint() {
    let mut bench = QueueFixture::new(rates(100, 50));
    assert_eq!(bench.offer(bench.hint("shop", "web", "u-1", "claimed:1")), OfferOutcome::Queued);
    bench.run(LONG, &stored_objects(&[("shop", "web", "u-1")]));
    assert_eq!((bench.hints.len(), bench.lookup_count(), bench.queue.len()), (1, 1, 0));
    assert_eq!(bench.hints[0].workloads[0].images[0].as_written(), "stored:1");
}

#[test]
fn images_of_unknown_controllers_are_warmed_when_they_recur() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.recurs_for = Some(OwnerKind { group: "tekton.dev".into(), kind: "TaskRun".into() });
    // Of two steps of one pipeline, the second is not a recurrence.
    for (name, after, hints, not_recurring) in [
        ("first", Duration::ZERO, 0, 1),
        ("second", RECURRENCE_DISTANCE / 2, 0, 2),
        ("third", RECURRENCE_DISTANCE / 2, 1, 2),
        ("next-day", IMAGE_TTL / 2, 2, 2),
        ("next-week", IMAGE_TTL * 7, 2, 3),
    ] {
        bench.now += after;
        bench.offer(bench.hint("shop", name, "u-1", "claimed:1"));
        bench.run(LONG, &stored_objects(&[("shop", name, "u-1")]));
        assert_eq!((bench.hints.len(), bench.not_recurring), (hints, not_recurring), "{name}");
    }
    assert_eq!((bench.queue.len(), bench.lookup_count()), (0, 5));
}

#[test]
fn only_the_images_that_recur_are_warmed() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let two_images = |name: &str, built: &str| {
        let mut workload = workload("shop", name, "runner:1");
        workload.images.push(built.parse().unwrap());
        LookupResult::Stored {
            uid: "u-1".into(),
            version: "7".into(),
            workloads: vec![workload],
            recurs_for: Some(OwnerKind { group: "a.b".into(), kind: "Run".into() }),
        }
    };
    let mut ready = Vec::new();
    for (name, built) in [("a", "built:1"), ("b", "built:2")] {
        bench.offer(bench.hint("shop", name, "u-1", "claimed:1"));
        bench.now += WINDOW;
        let step = bench.queue.process_due(bench.now, |_| true, |_| false);
        let id = step.lookups[0].id;
        ready = bench.queue.handle_lookup_result(id, two_images(name, built), bench.now).batches;
        bench.now += RECURRENCE_DISTANCE;
    }
    let images = &ready[0][0].workloads[0].images;
    assert_eq!(images.iter().map(ToString::to_string).collect::<Vec<_>>(), ["runner:1"]);
}

/// A forged review causes a lookup, but its object has another UID.
#[test]
fn forged_hints_do_not_make_an_image_recur() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.recurs_for = Some(OwnerKind { group: "a.b".into(), kind: "Run".into() });
    let stored = stored_objects(&[("shop", "web", "u-1")]);
    bench.offer(bench.hint("shop", "web", "forged", "claimed:1"));
    bench.run(LONG, &stored);
    bench.now += RECURRENCE_DISTANCE;
    bench.offer(bench.hint("shop", "web", "u-1", "claimed:1"));
    bench.run(LONG, &stored);
    assert_eq!((bench.lookup_count(), bench.hints.len(), bench.not_recurring), (2, 0, 1));
}

#[test]
fn missing_or_other_object_discards_hint() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.offer(bench.hint("shop", "absent", "u-1", "claimed:1"));
    bench.offer(bench.hint("shop", "web", "other-uid", "claimed:1"));
    bench.run(LONG, &stored_objects(&[("shop", "web", "u-1")]));
    assert_eq!((bench.hints.len(), bench.discarded.not_stored, bench.queue.len()), (0, 2, 0));
    assert_eq!(
        bench.lookup_count(),
        LOOKUP_DELAYS_MS.len() + 1,
        "an object with another UID is not looked up again"
    );
    assert_eq!(
        bench.offer(bench.hint("shop", "absent", "u-1", "claimed:1")),
        OfferOutcome::NotStored
    );
    assert_eq!(
        bench.offer(bench.hint("shop", "absent", "u-2", "claimed:1")),
        OfferOutcome::Queued,
        "created again with another UID"
    );
    bench.now += MEMORY_TTL;
    assert_eq!(bench.offer(bench.hint("shop", "absent", "u-1", "claimed:1")), OfferOutcome::Queued);
}

#[test]
fn object_stored_late_is_found() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.offer(bench.hint("shop", "web", "u-1", "claimed:1"));
    bench.run(WINDOW + Duration::from_millis(500), &stored_objects(&[]));
    assert_eq!(bench.lookup_count(), 2);
    bench.run(LONG, &stored_objects(&[("shop", "web", "u-1")]));
    assert_eq!((bench.hints.len(), bench.discarded.not_stored), (1, 0));
}

#[test]
fn lookup_is_repeated_until_version_changes() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.offer(bench.hint("shop", "web", "u-1", "claimed:2").with_replaced_version("7"));
    bench.run(Duration::from_secs(1), &stored_objects(&[("shop", "web", "u-1")]));
    assert_eq!(bench.hints.len(), 0, "the version before the change");
    let mut changed = stored_objects(&[("shop", "web", "u-1")]);
    for object in changed.values_mut() {
        object.1 = "8".into();
    }
    bench.run(LONG, &changed);
    assert_eq!(bench.hints.len(), 1);
}

#[test]
fn repeated_review_causes_one_lookup() {
    let mut bench = QueueFixture::new(rates(1000, 1000));
    let claim = bench.hint("shop", "web", "forged", "claimed:1");
    let offered: Vec<OfferOutcome> = (0..62_628).map(|_| bench.offer(claim.clone())).collect();
    assert_eq!(offered.iter().filter(|offered| **offered == OfferOutcome::Queued).count(), 1);
    bench.run(LONG, &stored_objects(&[("shop", "web", "u-1")]));
    assert_eq!((bench.lookup_count(), bench.hints.len()), (1, 0));
    assert_eq!(bench.offer(claim), OfferOutcome::NotStored);
}

#[test]
fn hints_of_one_object_share_a_lookup_and_are_bounded() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let offered: Vec<OfferOutcome> = (0..10)
        .map(|n| bench.offer(bench.hint("shop", "web", &format!("u-{n}"), "claimed:1")))
        .collect();
    assert_eq!(
        offered.iter().filter(|offered| **offered == OfferOutcome::Limited).count(),
        10 - MAX_HINTS_PER_OBJECT
    );
    bench.run(LONG, &stored_objects(&[("shop", "web", "u-2")]));
    assert_eq!(
        (bench.lookup_count(), bench.hints.len(), bench.discarded.not_stored),
        (1, 1, MAX_HINTS_PER_OBJECT - 1)
    );
}

#[test]
fn flood_is_rate_limited_and_does_not_delay_other_namespaces() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let there = stored_objects(&[("shop", "web", "u-1"), ("shop", "api", "u-2")]);
    for n in 0..10_000 {
        bench.offer(bench.hint("bank", &format!("forged-{n}"), "u", "claimed:1"));
    }
    assert_eq!(bench.queue.len(), MAX_NAMESPACE_OBJECTS);
    assert_eq!(bench.offer(bench.hint("shop", "web", "u-1", "claimed:1")), OfferOutcome::Queued);
    bench.run(WINDOW, &there);
    assert_eq!(bench.hints.len(), 1, "the hint of the other namespace is not delayed");
    bench.run(Duration::from_secs(10), &there);
    let (all, cost) = (bench.lookup_count(), MISS_COST as usize);
    assert!((500 / cost + 9 * 50 / cost..=500 / cost + 11 * 50 / cost).contains(&all), "{all}");
    bench.offer(bench.hint("shop", "api", "u-2", "claimed:1"));
    bench.run(WINDOW, &there);
    assert_eq!(bench.hints.len(), 2);
}

#[test]
fn missing_object_in_long_queue_is_looked_up_once() {
    let mut bench = QueueFixture::new(rates(10_000, 10_000));
    for n in 0..1000 {
        bench.offer(bench.hint("bank", &format!("forged-{n}"), "u", "claimed:1"));
    }
    bench.run(LONG, &BTreeMap::new());
    assert_eq!(
        bench.lookup_count(),
        1000 - MAX_OBJECTS_FOR_RETRY + MAX_OBJECTS_FOR_RETRY * LOOKUP_DELAYS_MS.len()
    );
    assert_eq!((bench.queue.len(), bench.discarded.not_stored), (0, 1000));
}

#[test]
fn flood_of_many_namespaces_leaves_capacity_for_others() {
    let mut bench = QueueFixture::new(rates(100, 50));
    for n in 0..20_000 {
        bench.offer(bench.hint(
            &format!("n-{}", n % 200),
            &format!("forged-{n}"),
            "u",
            "claimed:1",
        ));
    }
    assert_eq!(bench.queue.len(), MAX_OBJECTS);
    assert_eq!(bench.offer(bench.hint("shop", "web", "u-1", "claimed:1")), OfferOutcome::Queued);
    assert_eq!(bench.queue.len(), MAX_OBJECTS);
    bench.run(Duration::from_secs(5), &stored_objects(&[("shop", "web", "u-1")]));
    assert_eq!(bench.hints.len(), 1, "namespaces are served round-robin");
    let all = bench.lookup_count();
    assert!((1000 + 4 * 100..=1000 + 6 * 100).contains(&all), "{all}");
}

#[test]
fn unknown_namespaces_cause_no_lookup() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.known_namespaces = vec!["shop".into()];
    for n in 0..10_000 {
        bench.offer(bench.hint(&format!("none-{n}"), "web", "u", "claimed:1"));
    }
    assert_eq!(bench.queue.len(), MAX_UNKNOWN_OBJECTS);
    bench.offer(bench.hint("young", "web", "u-1", "claimed:1"));
    bench.run(WINDOW, &BTreeMap::new());
    assert_eq!(
        (bench.lookup_count(), bench.queue.len(), bench.discarded.not_stored),
        (0, 0, MAX_UNKNOWN_OBJECTS)
    );
    assert_eq!(bench.offer(bench.hint("young", "web", "u-2", "claimed:1")), OfferOutcome::Queued);
    bench.known_namespaces.push("young".into());
    bench.run(LONG, &stored_objects(&[("young", "web", "u-2")]));
    assert_eq!(bench.hints.len(), 1, "the namespace was created during the window");
}

#[test]
fn upgrade_of_many_workloads_is_one_batch() {
    let mut bench = QueueFixture::new(rates(100, 50));
    let names: Vec<String> = (0..300).map(|n| format!("w{n}")).collect();
    let objects: Vec<(&str, &str, &str)> =
        names.iter().map(|name| ("shop", name.as_str(), "u")).collect();
    for name in &names {
        bench.offer(bench.hint("shop", name, "u", "claimed:1"));
    }
    let mut batches = 0;
    let there = stored_objects(&objects);
    bench.now += WINDOW;
    let mut open = vec![bench.queue.process_due(bench.now, |_| true, |_| false)];
    while let Some(step) = open.pop() {
        batches += step.batches.len();
        bench.hints.extend(step.batches.into_iter().flatten());
        for lookup in step.lookups {
            let (uid, version, _) = there[&(lookup.namespace.clone(), lookup.name.clone())].clone();
            let workloads = vec![workload("shop", &lookup.name, "stored:1")];
            open.push(bench.queue.handle_lookup_result(
                lookup.id,
                LookupResult::Stored { uid, version, workloads, recurs_for: None },
                bench.now,
            ));
        }
        if open.is_empty() {
            let step = bench.queue.process_due(bench.now, |_| true, |_| false);
            if !step.lookups.is_empty() {
                open.push(step);
            }
        }
    }
    assert_eq!((bench.hints.len(), batches), (300, 1));
}

#[test]
fn slow_lookup_delays_confirmed_hints_at_most_by_grace() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.offer(bench.hint("shop", "slow", "u", "claimed:1"));
    bench.offer(bench.hint("shop", "web", "u", "claimed:1"));
    bench.now += WINDOW;
    let step = bench.queue.process_due(bench.now, |_| true, |_| false);
    let quick = step.lookups.iter().find(|lookup| lookup.name == "web").unwrap();
    let seen = LookupResult::Stored {
        uid: "u".into(),
        version: "7".into(),
        workloads: vec![workload("shop", "web", "a:1")],
        recurs_for: None,
    };
    assert!(
        bench.queue.handle_lookup_result(quick.id, seen, bench.now).batches.is_empty(),
        "the other lookup is in progress"
    );
    bench.now += COALESCE_GRACE;
    assert_eq!(bench.queue.process_due(bench.now, |_| true, |_| false).batches.len(), 1);
}

#[test]
fn confirmed_hints_have_separate_capacity() {
    let mut bench = QueueFixture::new(rates(100, 50));
    for n in 0..20_000 {
        bench.offer(bench.hint(
            &format!("n-{}", n % 200),
            &format!("forged-{n}"),
            "u",
            "claimed:1",
        ));
    }
    let hint = ConfirmedHint::from_stored(
        "shop",
        jiff::Timestamp::now(),
        vec![workload("shop", "web", "a:1")],
        Vec::new(),
    );
    assert_eq!(bench.queue.push_confirmed_hint(hint.clone(), bench.now).0, OfferOutcome::Queued);
    bench.run(WINDOW, &BTreeMap::new());
    assert_eq!(bench.hints.len(), 1);
    let offered: Vec<OfferOutcome> = (0..2 * MAX_NAMESPACE_OBJECTS)
        .map(|_| bench.queue.push_confirmed_hint(hint.clone(), bench.now).0)
        .collect();
    assert_eq!(
        offered.iter().filter(|offered| **offered == OfferOutcome::Limited).count(),
        MAX_NAMESPACE_OBJECTS
    );
}

#[test]
fn close_looks_up_each_object_once_and_empties_queue() {
    let mut bench = QueueFixture::new(rates(100, 50));
    bench.offer(bench.hint("shop", "absent", "u", "claimed:1"));
    bench.run(WINDOW, &BTreeMap::new());
    bench.offer(bench.hint("shop", "web", "u", "claimed:1"));
    bench.queue.close(bench.now);
    bench.run(Duration::ZERO, &stored_objects(&[("shop", "web", "u")]));
    assert_eq!((bench.hints.len(), bench.queue.len()), (1, 0));
}

#[test]
fn merged_hint_keeps_previous_keys_common_to_all() {
    let kinds = WorkloadKinds::default();
    let kind = kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
    let object = kind.parse_value(json!({"metadata": {"name": "web", "uid": "u"}})).unwrap();
    let of = |before: &[&str]| {
        let images = before.iter().map(|image| image.parse().unwrap()).collect();
        let before = Workload { images, ..workload("shop", "web", "x:1") };
        Hint::new(kind, "shop", &object)
            .unwrap()
            .with_workloads(&[], super::super::dedup_keys(&before))
    };
    let hint = merge_hints(
        &[of(&["a:1", "b:1"]), of(&["b:1", "c:1"])],
        vec![workload("shop", "web", "d:1")],
    )
    .unwrap();
    assert_eq!(hint.kept.len(), 1);
    assert!(merge_hints(&[of(&["a:1"])], Vec::new()).is_none());
}
