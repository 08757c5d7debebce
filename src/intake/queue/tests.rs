use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::workload::Kinds;

const WINDOW: Duration = Duration::from_millis(200);

fn rates(total: u32, namespace: u32) -> Rates {
    Rates { total, namespace }
}

/// A queue and its clock.
struct Bench {
    queue: Queue,
    kinds: Kinds,
    now: Instant,
    /// Namespaces that exist; all where there are none here.
    known: Vec<String>,
    hints: Vec<Hint>,
    lost: Lost,
    lookups: BTreeMap<String, usize>,
}

impl Bench {
    fn new(rates: Rates) -> Self {
        let now = Instant::now();
        let (hints, lookups, known) = (Vec::new(), BTreeMap::new(), Vec::new());
        let lost = Lost::default();
        Self { queue: Queue::new(WINDOW, rates, now), kinds: Kinds::default(), now, known, hints, lost, lookups }
    }

    fn claim(&self, namespace: &str, name: &str, uid: &str, image: &str) -> Claim {
        let kind = self.kinds.find("apps/v1", "Deployment").unwrap();
        let object = kind.read_value(json!({"metadata": {"name": name, "uid": uid}})).unwrap();
        Claim::new(kind, namespace, &object).unwrap().asking(&[workload(namespace, name, image)], Vec::new())
    }

    fn offer(&mut self, claim: Claim) -> Offered {
        let known = self.known.is_empty() || self.known.contains(&claim.namespace);
        self.queue.claim(claim, known, self.now).0
    }

    /// Lets time pass until nothing is to be done within `time`, and answers lookups from `stored`: namespace and name to UID,
    /// version and image.
    fn run(&mut self, time: Duration, stored: &BTreeMap<(String, String), (String, String, String)>) {
        let end = self.now + time;
        loop {
            let known = self.known.clone();
            let step =
                self.queue.advance(self.now, |name| known.is_empty() || known.iter().any(|one| one == name), |_| false);
            // What was answered makes room for further lookups.
            let busy = !step.lookups.is_empty();
            self.take(step, stored);
            if busy {
                continue;
            }
            match self.queue.wakes().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        self.now = end;
    }

    fn take(&mut self, step: Step, stored: &BTreeMap<(String, String), (String, String, String)>) {
        self.lost.not_stored += step.lost.not_stored;
        self.lost.forbidden += step.lost.forbidden;
        self.hints.extend(step.batches.into_iter().flatten());
        for lookup in step.lookups {
            *self.lookups.entry(lookup.namespace.clone()).or_default() += 1;
            let seen = match stored.get(&(lookup.namespace.clone(), lookup.name.clone())) {
                Some((uid, version, image)) => Seen::Stored {
                    uid: uid.clone(),
                    version: version.clone(),
                    workloads: vec![workload(&lookup.namespace, &lookup.name, image)],
                },
                None => Seen::Missing,
            };
            let step = self.queue.seen(lookup.id, seen, self.now);
            self.take(step, stored);
        }
    }

    fn looked_up(&self) -> usize {
        self.lookups.values().sum()
    }
}

fn workload(namespace: &str, name: &str, image: &str) -> Workload {
    Workload {
        kind: "Deployment".into(),
        namespace: namespace.into(),
        name: name.into(),
        images: vec![image.parse().unwrap()],
        ..Workload::default()
    }
}

fn stored(objects: &[(&str, &str, &str)]) -> BTreeMap<(String, String), (String, String, String)> {
    let pair = |(namespace, name, uid): &(&str, &str, &str)| {
        (((*namespace).to_owned(), (*name).to_owned()), ((*uid).to_owned(), "7".to_owned(), "stored:1".to_owned()))
    };
    objects.iter().map(pair).collect()
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_stored_object_with_the_uid_of_the_claim_is_a_hint_of_what_is_stored() {
    let mut bench = Bench::new(rates(100, 50));
    assert_eq!(bench.offer(bench.claim("shop", "web", "u-1", "claimed:1")), Offered::Queued);
    bench.run(LONG, &stored(&[("shop", "web", "u-1")]));
    assert_eq!((bench.hints.len(), bench.looked_up(), bench.queue.len()), (1, 1, 0));
    assert_eq!(bench.hints[0].workloads[0].images[0].as_written(), "stored:1");
}

#[test]
fn what_is_not_stored_or_is_another_object_makes_nothing() {
    let mut bench = Bench::new(rates(100, 50));
    bench.offer(bench.claim("shop", "absent", "u-1", "claimed:1"));
    bench.offer(bench.claim("shop", "web", "other-uid", "claimed:1"));
    bench.run(LONG, &stored(&[("shop", "web", "u-1")]));
    assert_eq!((bench.hints.len(), bench.lost.not_stored, bench.queue.len()), (0, 2, 0));
    assert_eq!(bench.looked_up(), PAUSES_MS.len() + 1, "another object is no reason to look again");
    assert_eq!(bench.offer(bench.claim("shop", "absent", "u-1", "claimed:1")), Offered::NotStored);
    assert_eq!(bench.offer(bench.claim("shop", "absent", "u-2", "claimed:1")), Offered::Queued, "made anew");
    bench.now += 3 * ABSENT_FOR;
    assert_eq!(bench.offer(bench.claim("shop", "absent", "u-1", "claimed:1")), Offered::Queued);
}

#[test]
fn an_object_that_is_stored_late_is_found() {
    let mut bench = Bench::new(rates(100, 50));
    bench.offer(bench.claim("shop", "web", "u-1", "claimed:1"));
    bench.run(WINDOW + Duration::from_millis(500), &stored(&[]));
    assert_eq!(bench.looked_up(), 2);
    bench.run(LONG, &stored(&[("shop", "web", "u-1")]));
    assert_eq!((bench.hints.len(), bench.lost.not_stored), (1, 0));
}

#[test]
fn a_change_is_waited_for() {
    let mut bench = Bench::new(rates(100, 50));
    bench.offer(bench.claim("shop", "web", "u-1", "claimed:2").replacing("7"));
    bench.run(Duration::from_secs(1), &stored(&[("shop", "web", "u-1")]));
    assert_eq!(bench.hints.len(), 0, "the version before the change");
    let mut changed = stored(&[("shop", "web", "u-1")]);
    for object in changed.values_mut() {
        object.1 = "8".into();
    }
    bench.run(LONG, &changed);
    assert_eq!(bench.hints.len(), 1);
}

#[test]
fn the_same_review_again_and_again_costs_one_lookup() {
    let mut bench = Bench::new(rates(1000, 1000));
    let claim = bench.claim("shop", "web", "forged", "claimed:1");
    let offered: Vec<Offered> = (0..62_628).map(|_| bench.offer(claim.clone())).collect();
    assert_eq!(offered.iter().filter(|offered| **offered == Offered::Queued).count(), 1);
    bench.run(LONG, &stored(&[("shop", "web", "u-1")]));
    assert_eq!((bench.looked_up(), bench.hints.len()), (1, 0));
    assert_eq!(bench.offer(claim), Offered::NotStored);
}

#[test]
fn claims_of_one_object_share_a_lookup_and_are_bounded() {
    let mut bench = Bench::new(rates(100, 50));
    let offered: Vec<Offered> =
        (0..10).map(|n| bench.offer(bench.claim("shop", "web", &format!("u-{n}"), "claimed:1"))).collect();
    assert_eq!(offered.iter().filter(|offered| **offered == Offered::Limited).count(), 10 - CLAIMS);
    bench.run(LONG, &stored(&[("shop", "web", "u-2")]));
    assert_eq!((bench.looked_up(), bench.hints.len(), bench.lost.not_stored), (1, 1, CLAIMS - 1));
}

#[test]
fn a_flood_costs_no_more_than_the_rates_and_keeps_nobody_else_waiting() {
    let mut bench = Bench::new(rates(100, 50));
    let there = stored(&[("shop", "web", "u-1"), ("shop", "api", "u-2")]);
    for n in 0..10_000 {
        bench.offer(bench.claim("bank", &format!("forged-{n}"), "u", "claimed:1"));
    }
    assert_eq!(bench.queue.len(), NAMESPACE_SHARE);
    assert_eq!(bench.offer(bench.claim("shop", "web", "u-1", "claimed:1")), Offered::Queued);
    bench.run(WINDOW, &there);
    assert_eq!(bench.hints.len(), 1, "the other namespace's hint waits for nobody");
    bench.run(Duration::from_secs(10), &there);
    let all = bench.looked_up();
    assert!((500 + 9 * 50..=500 + 11 * 50).contains(&all), "{all}");
    bench.offer(bench.claim("shop", "api", "u-2", "claimed:1"));
    bench.run(WINDOW, &there);
    assert_eq!(bench.hints.len(), 2);
}

#[test]
fn in_a_crowd_what_is_not_there_is_looked_up_once() {
    let mut bench = Bench::new(rates(10_000, 10_000));
    for n in 0..1000 {
        bench.offer(bench.claim("bank", &format!("forged-{n}"), "u", "claimed:1"));
    }
    bench.run(LONG, &BTreeMap::new());
    assert_eq!(bench.looked_up(), 1000 - CROWDED + CROWDED * PAUSES_MS.len());
    assert_eq!((bench.queue.len(), bench.lost.not_stored), (0, 1000));
}

#[test]
fn a_flood_of_many_namespaces_leaves_room_for_others() {
    let mut bench = Bench::new(rates(100, 50));
    for n in 0..20_000 {
        bench.offer(bench.claim(&format!("n-{}", n % 200), &format!("forged-{n}"), "u", "claimed:1"));
    }
    assert_eq!(bench.queue.len(), QUEUE);
    assert_eq!(bench.offer(bench.claim("shop", "web", "u-1", "claimed:1")), Offered::Queued);
    assert_eq!(bench.queue.len(), QUEUE);
    bench.run(Duration::from_secs(5), &stored(&[("shop", "web", "u-1")]));
    assert_eq!(bench.hints.len(), 1, "each namespace has its turn");
    let all = bench.looked_up();
    assert!((1000 + 4 * 100..=1000 + 6 * 100).contains(&all), "{all}");
}

#[test]
fn namespaces_that_do_not_exist_cost_nothing() {
    let mut bench = Bench::new(rates(100, 50));
    bench.known = vec!["shop".into()];
    for n in 0..10_000 {
        bench.offer(bench.claim(&format!("none-{n}"), "web", "u", "claimed:1"));
    }
    assert_eq!(bench.queue.len(), UNKNOWN_SHARE);
    bench.offer(bench.claim("young", "web", "u-1", "claimed:1"));
    bench.run(WINDOW, &BTreeMap::new());
    assert_eq!((bench.looked_up(), bench.queue.len(), bench.lost.not_stored), (0, 0, UNKNOWN_SHARE));
    assert_eq!(bench.offer(bench.claim("young", "web", "u-2", "claimed:1")), Offered::Queued);
    bench.known.push("young".into());
    bench.run(LONG, &stored(&[("young", "web", "u-2")]));
    assert_eq!(bench.hints.len(), 1, "its namespace was made a moment before");
}

#[test]
fn an_upgrade_of_many_workloads_is_one_batch() {
    let mut bench = Bench::new(rates(100, 50));
    let names: Vec<String> = (0..300).map(|n| format!("w{n}")).collect();
    let objects: Vec<(&str, &str, &str)> = names.iter().map(|name| ("shop", name.as_str(), "u")).collect();
    for name in &names {
        bench.offer(bench.claim("shop", name, "u", "claimed:1"));
    }
    let mut batches = 0;
    let there = stored(&objects);
    bench.now += WINDOW;
    let mut open = vec![bench.queue.advance(bench.now, |_| true, |_| false)];
    while let Some(step) = open.pop() {
        batches += step.batches.len();
        bench.hints.extend(step.batches.into_iter().flatten());
        for lookup in step.lookups {
            let (uid, version, _) = there[&(lookup.namespace.clone(), lookup.name.clone())].clone();
            let workloads = vec![workload("shop", &lookup.name, "stored:1")];
            open.push(bench.queue.seen(lookup.id, Seen::Stored { uid, version, workloads }, bench.now));
        }
        if open.is_empty() {
            let step = bench.queue.advance(bench.now, |_| true, |_| false);
            if !step.lookups.is_empty() {
                open.push(step);
            }
        }
    }
    assert_eq!((bench.hints.len(), batches), (300, 1));
}

#[test]
fn a_lookup_that_takes_long_holds_up_what_was_found_for_a_moment_only() {
    let mut bench = Bench::new(rates(100, 50));
    bench.offer(bench.claim("shop", "slow", "u", "claimed:1"));
    bench.offer(bench.claim("shop", "web", "u", "claimed:1"));
    bench.now += WINDOW;
    let step = bench.queue.advance(bench.now, |_| true, |_| false);
    let quick = step.lookups.iter().find(|lookup| lookup.name == "web").unwrap();
    let seen = Seen::Stored { uid: "u".into(), version: "7".into(), workloads: vec![workload("shop", "web", "a:1")] };
    assert!(bench.queue.seen(quick.id, seen, bench.now).batches.is_empty(), "the other lookup is under way");
    bench.now += GRACE;
    assert_eq!(bench.queue.advance(bench.now, |_| true, |_| false).batches.len(), 1);
}

#[test]
fn hints_of_the_watch_have_room_of_their_own() {
    let mut bench = Bench::new(rates(100, 50));
    for n in 0..20_000 {
        bench.offer(bench.claim(&format!("n-{}", n % 200), &format!("forged-{n}"), "u", "claimed:1"));
    }
    let hint = Hint::stored("shop", jiff::Timestamp::now(), vec![workload("shop", "web", "a:1")], Vec::new());
    assert_eq!(bench.queue.hint(hint.clone(), bench.now).0, Offered::Queued);
    bench.run(WINDOW, &BTreeMap::new());
    assert_eq!(bench.hints.len(), 1);
    let offered: Vec<Offered> = (0..2 * NAMESPACE_SHARE).map(|_| bench.queue.hint(hint.clone(), bench.now).0).collect();
    assert_eq!(offered.iter().filter(|offered| **offered == Offered::Limited).count(), NAMESPACE_SHARE);
}

#[test]
fn at_the_end_everything_is_looked_up_once_and_nothing_stays() {
    let mut bench = Bench::new(rates(100, 50));
    bench.offer(bench.claim("shop", "absent", "u", "claimed:1"));
    bench.run(WINDOW, &BTreeMap::new());
    bench.offer(bench.claim("shop", "web", "u", "claimed:1"));
    bench.queue.close(bench.now);
    bench.run(Duration::ZERO, &stored(&[("shop", "web", "u")]));
    assert_eq!((bench.hints.len(), bench.queue.len()), (1, 0));
}

#[test]
fn several_changes_of_one_object_take_over_what_all_of_them_had() {
    let kinds = Kinds::default();
    let kind = kinds.find("apps/v1", "Deployment").unwrap();
    let object = kind.read_value(json!({"metadata": {"name": "web", "uid": "u"}})).unwrap();
    let of = |before: &[&str]| {
        let images = before.iter().map(|image| image.parse().unwrap()).collect();
        let before = Workload { images, ..workload("shop", "web", "x:1") };
        Claim::new(kind, "shop", &object).unwrap().asking(&[], super::super::keys_of(&before))
    };
    let hint = merged(&[of(&["a:1", "b:1"]), of(&["b:1", "c:1"])], vec![workload("shop", "web", "d:1")]).unwrap();
    assert_eq!(hint.kept.len(), 1);
    assert!(merged(&[of(&["a:1"])], Vec::new()).is_none());
}
