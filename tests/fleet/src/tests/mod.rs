//! Tests of kubelets in a fleet: what the API server would see.

mod containers;
mod disk;
mod fleet;
mod properties;
mod pulls;

use std::{sync::Arc, time::Duration};

use prewarmer_api::image::ImageRef;

use crate::{
    Fleet, Input, NodeId, NodeSettings, Output, Report, SimTime,
    image::{Catalog, CatalogSettings, LayerSize},
    kubelet::{Event, KubeletSettings},
    pod::{ContainerState, Phase, PodSpec, PodStatus},
    registry::{Registries, RegistrySettings},
    store::Disk,
};

/// The only node of a [`Bench`].
const NODE: NodeId = NodeId(0);

/// Fleet of one node with round figures, and everything that its kubelet has reported.
struct Bench {
    fleet: Fleet,
    outputs: Vec<Output>,
}

impl Bench {
    /// Creates a node with a link of 10 MB/s and a disk of 10 GB without blobs. The registry answers
    /// after 100 ms, and unpacking takes no time.
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut KubeletSettings, &mut RegistrySettings)) -> Self {
        let mut kubelet = KubeletSettings { unpack_rate: 0, ..KubeletSettings::default() };
        let mut registry = RegistrySettings::new("registry.example");
        registry.blob_latency = Duration::from_millis(100);
        change(&mut kubelet, &mut registry);
        let mut registries = Registries::new(RegistrySettings::new(""));
        registries.add(registry);
        let catalog = Catalog::new(1, CatalogSettings::default());
        let mut fleet = Fleet::new(1, catalog, registries);
        fleet.add_node(NodeSettings {
            bandwidth: 10_000_000,
            disk: Disk { capacity: 10_000_000_000, reserved: 0, keeps_blobs: false },
            kubelet: Arc::new(kubelet),
        });
        Self { fleet, outputs: Vec::new() }
    }

    /// Puts an image into the catalog, with layers of these megabytes.
    fn image(&mut self, name: &str, megabytes: &[u64]) {
        let sizes = megabytes
            .iter()
            .map(|mb| LayerSize { compressed: mb * 1_000_000, unpacked: mb * 1_000_000 });
        let sizes: Vec<LayerSize> = sizes.collect();
        self.fleet.catalog_mut().insert(&reference(name), &sizes);
    }

    fn input(&mut self, input: Input) {
        let now = self.fleet.now();
        self.outputs.extend(self.fleet.handle(input, now).unwrap());
    }

    fn bind(&mut self, pod: PodSpec) {
        self.input(Input::PodBound { node: NODE, pod: Box::new(pod) });
    }

    fn delete(&mut self, name: &str) {
        self.input(Input::PodDeleted { uid: format!("uid-{name}"), grace: None });
    }

    /// Lets this many seconds pass.
    fn pass(&mut self, seconds: u64) {
        let to = self.fleet.now().after(Duration::from_secs(seconds));
        self.outputs.extend(self.fleet.advance(to));
    }

    fn pass_millis(&mut self, millis: u64) {
        let to = self.fleet.now().after(Duration::from_millis(millis));
        self.outputs.extend(self.fleet.advance(to));
    }

    fn events(&self, name: &str) -> Vec<(SimTime, &Event)> {
        self.outputs.iter().filter_map(|output| event_of(output, name)).collect()
    }

    /// Returns the reasons of the events of a pod.
    fn reasons(&self, name: &str) -> Vec<&str> {
        self.events(name).into_iter().map(|(_, event)| event.reason).collect()
    }

    fn statuses(&self, name: &str) -> Vec<&PodStatus> {
        self.outputs.iter().filter_map(|output| status_of(output, name)).collect()
    }

    fn status(&self, name: &str) -> &PodStatus {
        self.statuses(name).pop().unwrap()
    }

    fn phase(&self, name: &str) -> Phase {
        self.status(name).phase
    }

    /// Returns the waiting reasons of the statuses of a pod, without repetitions.
    fn waiting(&self, name: &str) -> Vec<&'static str> {
        let all = self.statuses(name).into_iter().flat_map(PodStatus::waiting_reasons);
        let mut reasons: Vec<&'static str> = all.collect();
        reasons.dedup();
        reasons
    }

    /// Returns the seconds from the start of the simulation to the first event with this reason.
    fn seconds(&self, name: &str, reason: &str) -> f64 {
        let events = self.events(name);
        let (at, _) = events.iter().find(|(_, event)| event.reason == reason).unwrap();
        f64::from(u32::try_from(at.as_micros() / 1_000).unwrap()) / 1_000.0
    }

    fn is_removed(&self, name: &str) -> bool {
        self.outputs.iter().any(|output| match &output.report {
            Report::PodRemoved { pod } => pod.name == name,
            _ => false,
        })
    }

    fn has_image(&self, name: &str) -> bool {
        self.fleet.store(NODE).unwrap().image(&reference(name)).is_some()
    }

    fn downloaded(&self) -> u64 {
        self.fleet.counters().total().downloaded / 1_000_000
    }
}

fn event_of<'a>(output: &'a Output, name: &str) -> Option<(SimTime, &'a Event)> {
    match &output.report {
        Report::Event { pod, event } if pod.name == name => Some((output.at, event)),
        _ => None,
    }
}

fn status_of<'a>(output: &'a Output, name: &str) -> Option<&'a PodStatus> {
    match &output.report {
        Report::PodStatus { pod, status } if pod.name == name => Some(status),
        _ => None,
    }
}

fn reference(name: &str) -> ImageRef {
    format!("registry.example/{name}").parse().unwrap()
}

fn is_running(status: &PodStatus, container: &str) -> bool {
    let all = status.init_containers.iter().chain(&status.containers);
    let mut found = all.filter(|status| status.name == container);
    found.any(|status| matches!(status.state, ContainerState::Running(_)))
}
