//! The truth behind hints: the workloads as they are stored.
//!
//! In: watches of all kinds with a pod template but pods, reduced to what each
//! asks for. Out: hints for what no hint brought (the webhook was down, a
//! namespace has just opted in, a later webhook changed the object); marks on
//! tasks that nobody needs any more; knowledge of rewritten images. Every
//! replica watches, so that a new leader knows what changed before it led, and
//! what the old one took with it; only the leader acts. May call `intake`,
//! `surroundings` and `workload`.
//!
//! Bare pods are not watched: what they need is being pulled already.

mod index;
mod progress;
mod wanted;
mod watched;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::ApiResource,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel},
        watch,
    },
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use self::wanted::Wanted;
use self::{
    index::{Id, Index},
    watched::Watched,
};
use crate::{
    intake::{Hint, Offered, WatchHints, keys_of_all, make_obsolete},
    metrics::Metrics,
    supervise::{Failure, Parts, Work, contain},
    surroundings::Surroundings,
    workload::{Kind, ObjectView, Policy, Verdict, rewritten},
};

/// A change is looked into when hints have had this long to make a task of it, beyond their window: the webhook's time-out,
/// a first look, and the requests.
const SETTLE: Duration = Duration::from_secs(3);
/// All namespaces with open tasks are gone through this often, for whatever slipped through.
const SWEEP: Duration = Duration::from_secs(60);
/// A replica that does not lead remembers for this long what no task covers yet: four times what a new leader takes to lead.
const PATIENCE: Duration = Duration::from_secs(60);
/// Objects per page of a first list: a large template has 20 KB.
const PAGE: u32 = 100;
/// Objects that may wait to be looked at.
const QUEUE: usize = 500;
/// Pods looked at to find whether images are rewritten: enough to find one that is not being deleted.
const PODS: u32 = 20;

/// What is needed to watch.
#[derive(Clone)]
pub struct Watcher {
    /// To read with.
    pub client: Client,
    /// Which objects count.
    pub policy: Arc<Policy>,
    /// What surrounds them.
    pub around: Surroundings,
    /// Where hints go, and what has been asked for.
    pub hints: WatchHints,
    /// How long hints are collected.
    pub window: Duration,
    /// Where the images that are asked for are noted.
    pub wanted: Wanted,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What a watch tells.
enum News {
    /// An object is there. `first`: it was there when we began.
    Seen {
        kind: usize,
        object: Box<ObjectView>,
        first: bool,
    },
    Gone {
        kind: usize,
        namespace: String,
        name: String,
    },
    /// A list has ended, and these are all there are.
    Listed {
        kind: usize,
        all: HashSet<(String, String)>,
    },
}

/// Watches until `stop`. What surrounds workloads, and the tasks that exist, must be known by then. An error names a watch
/// that has ended before.
pub async fn run(own: Watcher, leads: watch::Receiver<bool>, stop: CancellationToken) -> Result<(), Failure> {
    let (sender, inbox) = channel(QUEUE);
    // What was so before we began is no change.
    let _ = own.around.take_changed();
    let kinds: Vec<Arc<Kind>> = own.policy.kinds.iter().filter(|kind| !kind.is_pod()).cloned().collect();
    let mut watches = Parts::default();
    for (index, kind) in kinds.iter().enumerate() {
        let follow = follow(own.clone(), Arc::clone(kind), index, sender.clone(), stop.clone());
        watches.spawn("rollout: workload watch", follow);
    }
    let state = State {
        settle: own.window + SETTLE,
        index: Index::new(own.wanted.clone()),
        watcher: own,
        kinds,
        listed: HashSet::new(),
        due: HashMap::new(),
        sweeps: HashMap::new(),
        sender,
        leads,
    };
    let failure = tokio::select! {
        () = state.work(inbox, stop.clone()) => None,
        failure = watches.failed() => Some(failure).filter(|_| !stop.is_cancelled()),
    };
    if let Some(failure) = failure {
        return Err(failure);
    }
    let _ = watches.ended().await;
    Ok(())
}

async fn follow(own: Watcher, kind: Arc<Kind>, index: usize, sender: Sender<News>, stop: CancellationToken) {
    let api = scoped(&own, own.policy.watch_namespace.as_deref(), &kind.resource());
    let mut stream = std::pin::pin!(watcher(api, Config::default().page_size(PAGE)).default_backoff());
    let (mut first, mut all) = (true, HashSet::new());
    while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
        let news = match event {
            Ok(Event::Init) => {
                own.metrics.kube_requests.with_label_values(&["list", &kind.plural]).inc();
                all = HashSet::new();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                all.insert((object.namespace().unwrap_or_default(), object.name_any()));
                seen(&kind, index, object, first)
            }
            Ok(Event::InitDone) => {
                own.metrics.kube_requests.with_label_values(&["watch", &kind.plural]).inc();
                first = false;
                Some(News::Listed { kind: index, all: std::mem::take(&mut all) })
            }
            Ok(Event::Apply(object)) => seen(&kind, index, object, false),
            Ok(Event::Delete(object)) => {
                let namespace = object.namespace().unwrap_or_default();
                Some(News::Gone { kind: index, namespace, name: object.name_any() })
            }
            // A kind of the settings may not be installed (yet).
            Err(error) if kind.is_custom() => {
                tracing::debug!(kind = kind.plural, %error, "a watch was interrupted; it is taken up again");
                continue;
            }
            Err(error) => {
                tracing::warn!(kind = kind.plural, %error, "a watch was interrupted; it is taken up again");
                continue;
            }
        };
        if let Some(news) = news
            && !matches!(stop.run_until_cancelled(sender.send(news)).await, Some(Ok(())))
        {
            return;
        }
    }
}

fn seen(kind: &Kind, index: usize, object: Watched, first: bool) -> Option<News> {
    let name = object.name_any();
    match kind.read_value(object.object) {
        Ok(object) => Some(News::Seen { kind: index, object: Box::new(object), first }),
        Err(error) => {
            tracing::debug!(kind = kind.kind, name, %error, "an object cannot be read");
            None
        }
    }
}

fn scoped(watcher: &Watcher, namespace: Option<&str>, resource: &ApiResource) -> Api<Watched> {
    match namespace {
        Some(namespace) => Api::namespaced_with(watcher.client.clone(), namespace, resource),
        None => Api::all_with(watcher.client.clone(), resource),
    }
}

struct State {
    watcher: Watcher,
    settle: Duration,
    kinds: Vec<Arc<Kind>>,
    index: Index,
    /// Kinds of which there was a whole list.
    listed: HashSet<usize>,
    /// Changes that are looked into when hints have had their time.
    due: HashMap<Id, Due>,
    /// Namespaces whose tasks are to be gone through.
    sweeps: HashMap<String, Instant>,
    sender: Sender<News>,
    leads: watch::Receiver<bool>,
}

/// A change that is to be looked into.
struct Due {
    at: Instant,
    since: Instant,
    hint: Hint,
}

impl State {
    async fn work(mut self, mut inbox: Receiver<News>, stop: CancellationToken) {
        let mut changes = self.watcher.around.changes();
        let mut all = Instant::now() + self.settle;
        loop {
            let soonest = self.due.values().map(|due| due.at).chain(self.sweeps.values().copied()).min();
            let next = soonest.unwrap_or(all).min(all);
            tokio::select! {
                () = stop.cancelled() => return,
                news = inbox.recv() => match news {
                    Some(news) => {
                        self.take(news);
                        while let Ok(news) = inbox.try_recv() {
                            self.take(news);
                        }
                    }
                    None => return,
                },
                Ok(()) = changes.changed() => self.look_at_namespaces(&stop),
                Ok(()) = self.leads.changed() => all = Instant::now(),
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            if now >= all {
                all = now + SWEEP;
                let due = |namespace: String| (namespace, now);
                self.sweeps.extend(self.watcher.hints.ledger().namespaces().into_iter().map(due));
            }
            self.settle_due(now);
            self.sweep_due(now);
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Seen { kind, object, first } => self.see(kind, *object, first),
            News::Gone { kind, namespace, name } => self.lose(Id { kind, namespace, name }),
            News::Listed { kind, all } => {
                self.listed.insert(kind);
                for namespace in self.index.keep(kind, &all, Instant::now()) {
                    self.sweep_soon(namespace);
                }
            }
        }
    }

    /// The object asks for nothing any more.
    fn lose(&mut self, id: Id) {
        self.due.remove(&id);
        if self.index.remove(&id, Instant::now()) {
            self.sweep_soon(id.namespace);
        }
    }

    /// Has the tasks of a namespace gone through when what has changed in it has settled.
    fn sweep_soon(&mut self, namespace: String) {
        self.sweeps.entry(namespace).or_insert(Instant::now() + self.settle);
    }

    fn see(&mut self, kind_index: usize, object: ObjectView, first: bool) {
        let (watcher, kind) = (&self.watcher, &Arc::clone(&self.kinds[kind_index]));
        let metadata = &object.metadata;
        let id = Id { kind: kind_index, namespace: metadata.namespace.clone(), name: metadata.name.clone() };
        let consider = || watcher.policy.consider(kind, &object, &id.namespace, &watcher.around);
        let name = format!("{} {}/{}", kind.kind, id.namespace, id.name);
        let verdict = match contain(&watcher.metrics, Work::Workload, name, consider) {
            None | Some((Verdict::Ignored(_), _)) => return self.lose(id),
            Some((verdict, _)) => verdict,
        };
        let workloads = verdict.workloads();
        let keys = keys_of_all(&workloads);
        let old = first && !progress::is_under_way(kind, &object, Timestamp::now());
        let before = self.index.get(&id).map(<[_]>::to_vec);
        if before.as_ref() != Some(&keys) {
            self.index.put(id.clone(), keys.clone(), wanted::images_of(&workloads), old);
            if !old {
                let kept = match self.due.remove(&id) {
                    Some(earlier) => earlier.hint.into_kept(),
                    None => before.unwrap_or_default(),
                };
                if !keys.is_empty() {
                    let hint = watcher.hints.hint(&id.namespace, workloads, kept);
                    let now = Instant::now();
                    self.due.insert(id.clone(), Due { at: now + self.settle, since: now, hint });
                }
                self.sweep_soon(id.namespace.clone());
            }
        }
        if *self.leads.borrow() && progress::is_complete(kind, &object) && self.index.is_to_be_compared(&id) {
            tokio::spawn(compare(self.watcher.clone(), Arc::clone(kind), kind_index, object, self.sender.clone()));
        }
    }

    /// What hints have not brought by now is brought here, by the leader; the others wait for it to do so.
    fn settle_due(&mut self, now: Instant) {
        let leads = *self.leads.borrow();
        let ripe: Vec<(Id, Due)> = self.due.extract_if(|_, due| due.at <= now).collect();
        for (id, due) in ripe {
            // A task of the hint's was made about when the change was seen here.
            let since = due.since.checked_sub(self.settle).unwrap_or(due.since);
            if self.watcher.hints.ledger().covers_or_tried(due.hint.fresh(), since, now) {
                continue;
            }
            if leads {
                let (kind, namespace, name) = (&self.kinds[id.kind].kind, &id.namespace, &id.name);
                match self.watcher.hints.offer(due.hint.clone()) {
                    // The queue has no room: later it has.
                    Offered::Limited | Offered::Dropped => {
                        self.due.insert(id, Due { at: now + self.settle, ..due });
                    }
                    _ => {
                        tracing::info!(kind, namespace, name, "found what no hint brought");
                        self.watcher.metrics.recovered.inc();
                    }
                }
            } else if now.duration_since(due.since) < PATIENCE {
                self.due.insert(id, Due { at: now + self.settle, ..due });
            }
        }
    }

    /// Marks the tasks that no workload of their namespace needs any more.
    fn sweep_due(&mut self, now: Instant) {
        if !self.knows_all() {
            self.sweeps.values_mut().for_each(|at| *at = (*at).max(now + self.settle));
            return;
        }
        let ripe: Vec<String> = self.sweeps.extract_if(|_, at| *at <= now).map(|(namespace, _)| namespace).collect();
        // Whoever leads later goes through all of them.
        for namespace in ripe.into_iter().filter(|_| *self.leads.borrow()) {
            let ledger = self.watcher.hints.ledger();
            let since = now.checked_sub(self.settle).unwrap_or(now);
            let (wanted, leaving) = self.index.wanted(&namespace, since);
            if leaving {
                self.sweeps.insert(namespace.clone(), now + self.settle);
            }
            for (task, asked) in ledger.unwanted(&namespace, &wanted) {
                if !self.are_watched(&asked.workloads) {
                    continue;
                }
                if now.duration_since(asked.since()) < self.settle {
                    self.sweeps.insert(namespace.clone(), now + self.settle);
                    continue;
                }
                let there = asked.workloads.iter().any(|title| self.index.has(&self.kinds, &namespace, title));
                let why = if there { "its workloads ask for other images now" } else { "its workloads were deleted" };
                let watcher = self.watcher.clone();
                ledger.void(&task);
                tokio::spawn(async move { make_obsolete(&watcher.client, &task, why, &watcher.metrics).await });
            }
        }
    }

    /// Whether all of these, as `Kind/name`, are of kinds whose objects are seen here.
    fn are_watched(&self, workloads: &BTreeSet<String>) -> bool {
        let kind = |title: &String| title.split_once('/').map_or(String::new(), |(kind, _)| kind.to_owned());
        let seen = |name: String| (0..self.kinds.len()).any(|n| self.kinds[n].kind == name && self.listed.contains(&n));
        !workloads.is_empty() && workloads.iter().map(kind).all(seen)
    }

    /// Whether all built-in kinds have been listed: before that, what nobody seems to ask for may yet be asked for.
    fn knows_all(&self) -> bool {
        (0..self.kinds.len()).all(|n| self.kinds[n].is_custom() || self.listed.contains(&n))
    }

    /// The annotations of namespaces have changed: what is in them is looked at again.
    fn look_at_namespaces(&self, stop: &CancellationToken) {
        for namespace in self.watcher.around.take_changed() {
            if !self.watcher.policy.covers(&namespace) {
                continue;
            }
            for (index, kind) in self.kinds.iter().enumerate() {
                let (watcher, kind, namespace) = (self.watcher.clone(), kind.clone(), namespace.clone());
                let (sender, stop) = (self.sender.clone(), stop.clone());
                tokio::spawn(async move {
                    stop.run_until_cancelled(list_again(watcher, kind, index, namespace, sender)).await;
                });
            }
        }
    }
}

async fn list_again(watcher: Watcher, kind: Arc<Kind>, index: usize, namespace: String, sender: Sender<News>) {
    let api = scoped(&watcher, Some(&namespace), &kind.resource());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        watcher.metrics.kube_requests.with_label_values(&["list", &kind.plural]).inc();
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(kind = kind.plural, namespace, %error, "a namespace could not be looked at again");
                return;
            }
        };
        for object in page.items {
            if let Some(news) = seen(&kind, index, object, false)
                && sender.send(news).await.is_err()
            {
                return;
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return,
        }
    }
}

/// Compares a template with a pod that was made from it: another webhook may have given it other images.
async fn compare(watcher: Watcher, kind: Arc<Kind>, index: usize, object: ObjectView, sender: Sender<News>) {
    let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
    let pods = watcher.policy.kinds.iter().find(|kind| kind.is_pod()).cloned();
    let (Some(pods), false) = (pods, object.selector.is_empty()) else { return };
    let selector: Vec<String> = object.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&selector.join(",")).limit(PODS);
    watcher.metrics.kube_requests.with_label_values(&["list", "pods"]).inc();
    let Ok(page) = scoped(&watcher, Some(&namespace), &pods.resource()).list(&params).await else { return };
    let views = page.items.into_iter().filter_map(|pod| pods.read_value(pod.object).ok());
    let alive = views.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
    let Some(pairs) = alive.map(|pod| rewritten(&object, &pod)).filter(|pairs| !pairs.is_empty()) else { return };
    if watcher.around.note_rewritten(&namespace, &kind.kind, &name) {
        let (template, pod) = &pairs[0];
        tracing::info!(
            kind = kind.kind,
            namespace,
            name,
            template,
            pod,
            "another webhook rewrites its images: it is warmed by the helper method from now on"
        );
        // A closed channel means that we do not lead any more.
        let _ = sender.send(News::Seen { kind: index, object: Box::new(object), first: false }).await;
    }
}
