//! All nodes, and the order in which their events happen.
//!
//! The queue has one entry for each node, the time of its next timer; each node keeps its own timers
//! ([`kubelet`](crate::kubelet)). Nothing in it is ever outdated, and its size is the number of
//! nodes. At the same time, completed downloads come first in the order of nodes and layers, then
//! nodes in the order of their numbers. The outputs therefore depend on the seed and the inputs
//! only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use prewarmer_api::image::ImageRef;

use crate::{
    counters::{Counters, PodStart},
    ids::{NodeId, PodId},
    image::{Catalog, Image},
    kubelet::{Change, Kubelet, KubeletSettings},
    output::{Output, Report},
    pod::{PodSpec, Taint},
    random::Random,
    registry::Registries,
    store::{Disk, ImageStore, StoreError},
    time::SimTime,
    world::World,
};

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Capacity of the node's link, in bytes per second.
    pub bandwidth: u64,
    /// Disk.
    pub disk: Disk,
    /// Kubelet and container runtime.
    pub kubelet: Arc<KubeletSettings>,
}

impl Default for NodeSettings {
    /// Returns the settings of a node with 10 Gbit/s and a disk of 100 GB, of which 10 GB are used
    /// by the operating system (assumptions).
    fn default() -> Self {
        Self {
            bandwidth: 1_250_000_000,
            disk: Disk { capacity: 100_000_000_000, reserved: 10_000_000_000, keeps_blobs: true },
            kubelet: Arc::default(),
        }
    }
}

/// Change of the cluster that concerns nodes.
#[derive(Debug, Clone)]
pub enum Input {
    /// A pod was bound to a node. Has no effect on a stopped node.
    PodBound {
        /// Node.
        node: NodeId,
        /// Pod.
        pod: Box<PodSpec>,
    },
    /// The object of a pod is being deleted. Has no effect for an unknown pod.
    PodDeleted {
        /// UID of the pod.
        uid: String,
        /// Grace period, if it differs from that of the spec.
        grace: Option<Duration>,
    },
    /// The object of a pod no longer exists, as after a deletion without a grace period. Has no
    /// effect for an unknown pod.
    PodGone {
        /// UID of the pod.
        uid: String,
    },
    /// A node has these taints with the effect `NoExecute`. Its kubelet rejects pods that do not
    /// tolerate them; the control plane deletes those that run.
    NodeTainted {
        /// Node.
        node: NodeId,
        /// All taints with this effect.
        taints: Vec<Taint>,
    },
    /// All pods of a node are deleted with their own grace periods, as `kubectl drain` does through
    /// the API server.
    NodeDrained {
        /// Node.
        node: NodeId,
    },
    /// A node loses power: it reports nothing any more. Its pods are unknown from now on.
    NodeStopped {
        /// Node.
        node: NodeId,
    },
    /// A stopped node starts with the images on its disk. Its pods must be bound again, as the
    /// kubelet lists them when it starts.
    NodeStarted {
        /// Node.
        node: NodeId,
    },
    /// A new machine with an empty disk takes the place of a node.
    NodeReplaced {
        /// Node.
        node: NodeId,
    },
}

/// Error of an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// There is no node with this number.
    #[error("node {} does not exist", .0.0)]
    UnknownNode(NodeId),
    /// A pod with this UID is bound already.
    #[error("pod {0} is bound already")]
    DuplicatePod(String),
    /// An image could not be added to a node.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// State of a machine.
#[derive(Debug)]
enum Machine {
    Running(Box<Kubelet>),
    Stopped(ImageStore),
}

#[derive(Debug)]
struct Node {
    settings: NodeSettings,
    machine: Machine,
    /// Entry of the node in the queue.
    scheduled: Option<SimTime>,
    /// Number of starts, which gives each its own random numbers.
    starts: u64,
}

/// Nodes, registries and network.
#[derive(Debug)]
pub struct Fleet {
    seed: u64,
    world: World,
    nodes: Vec<Node>,
    queue: BTreeSet<(SimTime, NodeId)>,
    /// Pods by UID.
    pods: BTreeMap<String, (NodeId, PodId)>,
    next_pod: u64,
}

impl Fleet {
    /// Creates a fleet without nodes.
    #[must_use]
    pub fn new(seed: u64, catalog: Catalog, registries: Registries) -> Self {
        Self {
            seed,
            world: World::new(catalog, registries),
            nodes: Vec::new(),
            queue: BTreeSet::new(),
            pods: BTreeMap::new(),
            next_pod: 0,
        }
    }

    /// Adds a node with an empty disk, which starts now.
    pub fn add_node(&mut self, settings: NodeSettings) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.world.network.set_node(id, settings.bandwidth);
        let store = ImageStore::new(settings.disk);
        let machine = Machine::Stopped(store);
        self.nodes.push(Node { settings, machine, scheduled: None, starts: 0 });
        self.start(id);
        id
    }

    /// Adds an image to a node without a download, as part of the machine's image. Returns it.
    pub fn preload(
        &mut self,
        node: NodeId,
        reference: &ImageRef,
    ) -> Result<Arc<Image>, FleetError> {
        let image = self.world.catalog.resolve(reference);
        let now = self.world.now;
        let machine = self.node_mut(node).ok_or(FleetError::UnknownNode(node))?;
        let add = |store: &mut ImageStore| store.preload(&image, reference);
        match &mut machine.machine {
            Machine::Running(kubelet) => kubelet.change_store(add, now)?,
            Machine::Stopped(store) => add(store)?,
        }
        self.schedule(node);
        Ok(image)
    }

    /// Returns the current time.
    #[must_use]
    pub fn now(&self) -> SimTime {
        self.world.now
    }

    /// Returns the images that registries offer, to put in some or to move tags.
    pub fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.world.catalog
    }

    /// Returns the image store of a node.
    #[must_use]
    pub fn store(&self, node: NodeId) -> Option<&ImageStore> {
        match &self.nodes.get(index(node))?.machine {
            Machine::Running(kubelet) => Some(kubelet.store()),
            Machine::Stopped(store) => Some(store),
        }
    }

    /// Returns the figures.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.world.counters
    }

    /// Removes and returns the starts of pods since the last call.
    pub fn take_starts(&mut self) -> Vec<PodStart> {
        self.world.counters.take_starts()
    }

    /// Returns the downloaded bytes on all nodes that no workload has used so far.
    #[must_use]
    pub fn unused_bytes(&self) -> u64 {
        let nodes = (0..self.nodes.len()).filter_map(|node| u32::try_from(node).ok());
        let stores = nodes.filter_map(|node| self.store(NodeId(node)));
        stores.map(ImageStore::unused_bytes).fold(0, u64::saturating_add)
    }

    /// Returns the time of the next event; none if nothing will happen without an input. The event
    /// may be internal and give no output.
    pub fn next_event(&mut self) -> Option<SimTime> {
        let timer = self.queue.first().map(|(at, _)| *at);
        let download = self.world.network.next_completion();
        timer.into_iter().chain(download).min()
    }

    /// Lets time pass, and returns what the kubelets report meanwhile, in order.
    pub fn advance(&mut self, to: SimTime) -> Vec<Output> {
        while let Some(next) = self.next_event().filter(|next| *next <= to) {
            self.world.now = self.world.now.max(next);
            if self.world.network.next_completion() == Some(next) {
                for (_, download) in self.world.network.advance(next) {
                    self.change(download.node, |kubelet, world| {
                        kubelet.layer_downloaded(download.layer, world);
                    });
                }
            } else if let Some((_, node)) = self.queue.first().copied() {
                self.change(node, Kubelet::fire);
            }
        }
        self.world.now = self.world.now.max(to);
        std::mem::take(&mut self.world.outputs)
    }

    /// Lets time pass until `now`, handles an input, and returns what the kubelets report, in order.
    /// An earlier time counts as the current one. On an error the input has no effect, and the next
    /// call returns the reports.
    pub fn handle(&mut self, input: Input, now: SimTime) -> Result<Vec<Output>, FleetError> {
        let earlier = self.advance(now);
        let result = self.apply(input);
        let later = std::mem::replace(&mut self.world.outputs, earlier);
        self.world.outputs.extend(later);
        result?;
        Ok(std::mem::take(&mut self.world.outputs))
    }

    /// Returns the number of pods.
    #[cfg(test)]
    pub(crate) fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// Returns the number of downloads.
    #[cfg(test)]
    pub(crate) fn download_count(&self) -> usize {
        self.world.network.len()
    }

    fn apply(&mut self, input: Input) -> Result<(), FleetError> {
        match input {
            Input::PodBound { node, pod } => self.bind(node, *pod)?,
            Input::PodDeleted { uid, grace } => {
                if let Some((node, pod)) = self.pods.get(&uid).copied() {
                    self.notify(node, Change::Deleted(pod, grace));
                }
            }
            Input::PodGone { uid } => {
                if let Some((node, pod)) = self.pods.remove(&uid) {
                    self.notify(node, Change::Gone(pod));
                }
            }
            Input::NodeTainted { node, taints } => {
                self.known(node)?;
                self.notify(node, Change::Taints(taints));
            }
            Input::NodeDrained { node } => {
                self.known(node)?;
                for pod in self.pods_of(node) {
                    self.notify(node, Change::Deleted(pod, None));
                }
            }
            Input::NodeStopped { node } => {
                self.known(node)?;
                self.stop(node);
            }
            Input::NodeStarted { node } => {
                self.known(node)?;
                self.start(node);
            }
            Input::NodeReplaced { node } => {
                self.known(node)?;
                self.stop(node);
                let unused = self.store(node).map_or(0, ImageStore::unused_bytes);
                self.world.counters.in_vain(node, unused);
                if let Some(node) = self.node_mut(node) {
                    node.machine = Machine::Stopped(ImageStore::new(node.settings.disk));
                }
                self.start(node);
            }
        }
        Ok(())
    }

    fn bind(&mut self, node: NodeId, pod: PodSpec) -> Result<(), FleetError> {
        self.known(node)?;
        if self.pods.contains_key(&pod.uid) {
            return Err(FleetError::DuplicatePod(pod.uid));
        }
        let is_running =
            self.node_mut(node).is_some_and(|node| matches!(node.machine, Machine::Running(_)));
        if is_running {
            let id = PodId(self.next_pod);
            self.next_pod = self.next_pod.saturating_add(1);
            self.pods.insert(pod.uid.clone(), (node, id));
            self.notify(node, Change::Bound(id, Arc::new(pod)));
        }
        Ok(())
    }

    /// Starts a stopped machine.
    fn start(&mut self, id: NodeId) {
        let (seed, now) = (self.seed, self.world.now);
        let Some(node) = self.node_mut(id) else {
            return;
        };
        let Machine::Stopped(store) = &mut node.machine else {
            return;
        };
        let store = std::mem::replace(store, ImageStore::new(node.settings.disk));
        node.starts = node.starts.saturating_add(1);
        let random = Random::new(seed, &format!("node {} start {}", id.0, node.starts));
        let settings = Arc::clone(&node.settings.kubelet);
        let kubelet = Kubelet::new(id, settings, store, random, now);
        node.machine = Machine::Running(Box::new(kubelet));
        self.schedule(id);
    }

    /// Stops a running machine.
    fn stop(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(index(id)) else {
            return;
        };
        let empty = Machine::Stopped(ImageStore::new(node.settings.disk));
        node.machine = match std::mem::replace(&mut node.machine, empty) {
            Machine::Running(kubelet) => Machine::Stopped(kubelet.power_off(&mut self.world)),
            stopped @ Machine::Stopped(_) => stopped,
        };
        self.pods.retain(|_, (node, _)| *node != id);
        self.schedule(id);
    }

    fn known(&self, node: NodeId) -> Result<(), FleetError> {
        self.nodes.get(index(node)).map(|_| ()).ok_or(FleetError::UnknownNode(node))
    }

    fn node_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(index(node))
    }

    fn pods_of(&self, node: NodeId) -> Vec<PodId> {
        match self.nodes.get(index(node)).map(|node| &node.machine) {
            Some(Machine::Running(kubelet)) => kubelet.pods().collect(),
            Some(Machine::Stopped(_)) | None => Vec::new(),
        }
    }

    fn notify(&mut self, node: NodeId, change: Change) {
        self.change(node, |kubelet, world| kubelet.handle(change, world));
    }

    /// Changes the kubelet of a running machine, and updates the queue. Forgets removed pods.
    fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Kubelet, &mut World)) {
        let first = self.world.outputs.len();
        if let Some(Node { machine: Machine::Running(kubelet), .. }) = self.nodes.get_mut(index(id))
        {
            change(kubelet, &mut self.world);
        }
        for output in self.world.outputs.iter().skip(first) {
            if let Report::PodRemoved { pod } = &output.report {
                self.pods.remove(&pod.uid);
            }
        }
        self.schedule(id);
    }

    /// Updates the entry of a node in the queue.
    fn schedule(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(index(id)) else {
            return;
        };
        let next = match &node.machine {
            Machine::Running(kubelet) => kubelet.next_timer(),
            Machine::Stopped(_) => None,
        };
        if next == node.scheduled {
            return;
        }
        if let Some(before) = std::mem::replace(&mut node.scheduled, next) {
            self.queue.remove(&(before, id));
        }
        self.queue.extend(next.map(|at| (at, id)));
    }
}

fn index(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(usize::MAX)
}
