//! Kubelet and container runtime of one node, as a state machine.
//!
//! | module | contents |
//! |---|---|
//! | `state` | the state |
//! | `lifecycle` | admission, end and removal of pods |
//! | `worker` | synchronization of a pod with its spec |
//! | `ensure` | presence of an image: policies, back-off, events |
//! | `puller`, `pull` | queue of pulls; one pull at the container runtime |
//! | `housekeeping` | garbage collection, disk pressure, node status |
//! | `record`, `status` | state of one pod; the status that follows from it |
//! | `timers`, `backoff`, `event`, `settings` | values |

mod backoff;
mod ensure;
mod event;
mod housekeeping;
mod lifecycle;
mod pull;
mod puller;
mod record;
mod settings;
mod state;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod timers;
mod worker;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) use self::state::Kubelet;
pub use self::{event::Event, settings::KubeletSettings};
use self::{
    puller::Puller,
    state::{Pressure, ReportedNode},
    timers::{Timer, Timers},
};
use crate::{
    ids::{NodeId, PodId},
    image::Digest,
    pod::{PodSpec, Taint},
    random::Random,
    store::ImageStore,
    time::SimTime,
    world::World,
};

/// Longest period of the kubelet's regular work, within which the offset of a node is drawn.
const OFFSET_RANGE: Duration = Duration::from_secs(30);

/// Change that a kubelet is notified of.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A pod was bound to the node.
    Bound(PodId, Arc<PodSpec>),
    /// A pod's object is being deleted, with another grace period if specified.
    Deleted(PodId, Option<Duration>),
    /// A pod's object no longer exists.
    Gone(PodId),
    /// The node has these taints with the effect `NoExecute`.
    Taints(Vec<Taint>),
}

impl Kubelet {
    /// Starts a kubelet without pods on a machine with this store.
    pub(crate) fn new(
        node: NodeId,
        settings: Arc<KubeletSettings>,
        mut store: ImageStore,
        mut random: Random,
        now: SimTime,
    ) -> Self {
        store.forget_detection();
        let offset = random.duration_below(OFFSET_RANGE);
        let puller = Puller::new(&settings, now);
        let mut timers = Timers::default();
        let first = random.duration_below(settings.gc.period);
        timers.set(Timer::Collect, now.after(first));
        let mut kubelet = Self {
            node,
            settings,
            random,
            started: now,
            store,
            pods: BTreeMap::new(),
            puller,
            timers,
            taints: Vec::new(),
            offset,
            pressure: Pressure::default(),
            reported: ReportedNode::default(),
        };
        kubelet.notice_changes(now);
        kubelet
    }

    /// Returns the image store.
    pub(crate) fn store(&self) -> &ImageStore {
        &self.store
    }

    /// Changes the image store from outside, such as by adding images to the machine.
    pub(crate) fn change_store<T>(
        &mut self,
        change: impl FnOnce(&mut ImageStore) -> T,
        now: SimTime,
    ) -> T {
        let result = change(&mut self.store);
        self.notice_changes(now);
        result
    }

    /// Returns the pods of the kubelet.
    pub(crate) fn pods(&self) -> impl Iterator<Item = PodId> {
        self.pods.keys().copied()
    }

    /// Returns the time at which the next timer is due.
    pub(crate) fn next_timer(&self) -> Option<SimTime> {
        self.timers.next()
    }

    /// Handles a change.
    pub(crate) fn handle(&mut self, change: Change, world: &mut World) {
        match change {
            Change::Bound(id, spec) => self.admit(id, spec, world),
            Change::Deleted(id, grace) => self.delete(id, grace, world),
            Change::Gone(id) => self.forget(id, world),
            Change::Taints(taints) => self.taints = taints,
        }
        self.settle(world);
    }

    /// Handles the end of a download.
    pub(crate) fn layer_downloaded(&mut self, layer: Digest, world: &mut World) {
        self.with_puller(|puller, host| puller.layer_downloaded(layer, host, world));
        self.settle(world);
    }

    /// Handles the timers that are due.
    pub(crate) fn fire(&mut self, world: &mut World) {
        while let Some(timer) = self.timers.pop_due(world.now) {
            match timer {
                Timer::LayerRequested(layer) => {
                    self.with_puller(|puller, host| puller.layer_requested(layer, host, world));
                }
                Timer::LayerUnpacked(layer) => {
                    self.with_puller(|puller, host| puller.layer_unpacked(layer, host, world));
                }
                Timer::Pull(id) => {
                    self.with_puller(|puller, host| puller.answered(id, host, world));
                }
                Timer::Exit(id, index) => self.container_exited(id, index, world),
                Timer::Stopped(id) => self.stopped(id, world),
                Timer::Step(id) => self.step_done(id, world),
                Timer::Deadline(id) => self.deadline_exceeded(id, world),
                Timer::Relist(id) | Timer::Retry(id) => self.request_sync(id, world),
                Timer::Collect => self.collect_garbage(world),
                Timer::Pressure => self.look_at_disk(world),
                Timer::NodeStatus => self.report_node(world),
            }
            self.settle(world);
        }
    }

    /// Ends the kubelet as a loss of power does: pulls are lost, the stored images stay.
    pub(crate) fn power_off(mut self, world: &mut World) -> ImageStore {
        self.with_puller(|puller, host| puller.remove_all(host, world));
        self.store
    }

    /// Does what the handled change has made necessary.
    fn settle(&mut self, world: &mut World) {
        self.deliver_results(world);
        self.notice_changes(world.now);
    }
}
