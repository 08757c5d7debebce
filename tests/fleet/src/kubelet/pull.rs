//! One pull at the container runtime (containerd's `PullImage`).
//!
//! 1. The reference is resolved. If the node has the image under another name, the name is added.
//! 2. Manifest and configuration are fetched.
//! 3. Missing layers are downloaded, a limited number at the same time, and unpacked from the lowest
//!    to the highest, as soon as all below are unpacked.
//! 4. The image is added to the store.
//!
//! A pull holds references to its layers, so that no garbage collection removes them. When it fails
//! or is cancelled, layers that no image and no other pull uses are dropped: containerd's lease of
//! the pull ends. Dropping them at once is a simplification, since containerd collects its garbage
//! later, and could resume a download until then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    puller::{Host, LayerStage, LayerWork, PullRequest, PullResult, Pulled, Puller},
    timers::Timer,
};
use crate::{
    ids::PodId,
    image::{Digest, Image, Layer},
    network::Download,
    registry::PullError,
    time::SimTime,
    world::World,
};

/// State of one layer of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerState {
    /// Not requested yet.
    Missing,
    /// Being downloaded for this or another pull.
    Fetching,
    /// In the store, with a reference of this pull.
    Held,
}

/// Next step of a pull.
#[derive(Debug)]
enum Step {
    /// The registry resolves the reference.
    Resolve,
    /// The registry sends manifest and configuration.
    Manifest(Arc<Image>),
    /// Layers are downloaded and unpacked.
    Layers(Arc<Image>, Vec<LayerState>),
}

/// Pull at the runtime.
#[derive(Debug)]
pub(super) struct Pull {
    request: PullRequest,
    started: SimTime,
    step: Step,
}

impl Pull {
    /// Returns the layers of the image with their states; none before the manifest is known.
    fn layers(&self) -> impl Iterator<Item = (Layer, LayerState)> {
        let (image, states) = match &self.step {
            Step::Layers(image, states) => (image.layers(), states.as_slice()),
            Step::Resolve | Step::Manifest(_) => (&[][..], &[][..]),
        };
        image.iter().zip(states).map(|(layer, state)| (*layer, *state))
    }

    fn set(&mut self, digest: Digest, new: LayerState) {
        if let Step::Layers(image, states) = &mut self.step {
            let layers = image.layers().iter().zip(states);
            layers.filter(|(layer, _)| layer.digest == digest).for_each(|(_, state)| *state = new);
        }
    }
}

impl Puller {
    /// Starts the requests whose turn has come.
    pub(super) fn start_waiting(&mut self, host: &mut Host<'_>, world: &mut World) {
        while let Some(request) = self.next_request(host.settings, world.now) {
            let registry = world.registries.id(&request.reference);
            let latency = world.registries.settings(registry).manifest_latency;
            host.timers.set(Timer::Pull(request.pod), world.now.after(latency));
            let pod = request.pod;
            self.active.insert(pod, Pull { request, started: world.now, step: Step::Resolve });
        }
    }

    /// Handles the answer of the registry to a pull's request.
    pub(super) fn answered(&mut self, pod: PodId, host: &mut Host<'_>, world: &mut World) {
        let Some(pull) = self.active.get_mut(&pod) else {
            return;
        };
        let reference = &pull.request.reference;
        let next = match &pull.step {
            Step::Resolve => {
                let has_secret = !pull.request.secrets.is_empty();
                let resolved = world.registries.resolve(reference, has_secret, world.now);
                resolved.map(|()| Step::Manifest(world.catalog.resolve(reference)))
            }
            Step::Manifest(image) => world
                .registries
                .fetch_manifest(reference, image.digest(), host.node, world.now)
                .map(|()| {
                    Step::Layers(Arc::clone(image), initial_states(image, &self.layers, host))
                }),
            Step::Layers(..) => return,
        };
        match next {
            Err(error) => self.fail(pod, error, host, world),
            Ok(Step::Manifest(image)) if host.store.has_image(&image.id()) => {
                self.complete(pod, &image, true, host, world);
            }
            Ok(step) => {
                let fetches_manifest = matches!(step, Step::Manifest(_));
                if fetches_manifest {
                    let registry = world.registries.id(reference);
                    let settings = world.registries.settings(registry);
                    let latency = settings.manifest_latency.saturating_add(settings.blob_latency);
                    host.timers.set(Timer::Pull(pod), world.now.after(latency));
                }
                pull.step = step;
                if !fetches_manifest {
                    self.continue_layers(pod, host, world);
                }
            }
        }
    }

    /// Sends the request of a layer over the network, after the registry's latency.
    pub(super) fn layer_requested(
        &mut self,
        digest: Digest,
        host: &mut Host<'_>,
        world: &mut World,
    ) {
        let Some(work) = self.layers.get_mut(&digest) else {
            return;
        };
        let pull = work.pulls.first().and_then(|pod| self.active.get(pod));
        if let Some(pull) = pull.filter(|_| work.stage == LayerStage::Requested) {
            work.stage = LayerStage::Downloading;
            let registry = world.registries.id(&pull.request.reference);
            let download = Download { node: host.node, layer: digest };
            world.network.start(download, registry, work.layer.size.compressed, world.now);
        }
    }

    /// Stores a layer whose download is complete. On a full disk all pulls that wait for it fail.
    pub(super) fn layer_downloaded(
        &mut self,
        digest: Digest,
        host: &mut Host<'_>,
        world: &mut World,
    ) {
        let Some(work) = self.layers.get_mut(&digest) else {
            return;
        };
        work.stage = LayerStage::Downloaded;
        let (layer, pulls) = (work.layer, work.pulls.clone());
        world.counters.downloaded(host.node, &work.image, layer.size.compressed);
        let users = u32::try_from(pulls.len()).unwrap_or(u32::MAX);
        if host.store.add_layer(&layer, users).is_err() {
            self.layers.remove(&digest);
            world.counters.in_vain(host.node, layer.size.compressed);
            for pod in pulls {
                let Some(pull) = self.active.get_mut(&pod) else {
                    continue;
                };
                pull.set(digest, LayerState::Missing);
                let name = pull.request.reference.normalized().to_owned();
                self.fail(pod, PullError::NoSpace(name, digest), host, world);
            }
            return;
        }
        for pod in &pulls {
            if let Some(pull) = self.active.get_mut(pod) {
                pull.set(digest, LayerState::Held);
            }
        }
        for pod in pulls {
            self.continue_layers(pod, host, world);
        }
    }

    /// Continues the pulls that waited for the unpacking of a layer.
    pub(super) fn layer_unpacked(
        &mut self,
        digest: Digest,
        host: &mut Host<'_>,
        world: &mut World,
    ) {
        let Some(work) = self.layers.remove(&digest) else {
            return;
        };
        for pod in work.pulls {
            self.continue_layers(pod, host, world);
        }
    }

    /// Cancels the pull of a pod. It fails at once if it is at the runtime, otherwise when its turn
    /// comes.
    pub(super) fn cancel(&mut self, pod: PodId, host: &mut Host<'_>, world: &mut World) {
        match self.active.get(&pod) {
            Some(pull) => {
                let name = pull.request.reference.normalized().to_owned();
                self.fail(pod, PullError::Canceled(name), host, world);
            }
            None => self.mark_cancelled(pod),
        }
    }

    /// Removes all traces of a pod, and starts the pulls whose turn has come by that.
    pub(super) fn remove_pod(&mut self, pod: PodId, host: &mut Host<'_>, world: &mut World) {
        self.forget(pod);
        self.drop_pull(pod, host, world);
        self.start_waiting(host, world);
    }

    /// Removes all pulls, as the node loses power.
    pub(super) fn remove_all(&mut self, host: &mut Host<'_>, world: &mut World) {
        let pods: Vec<PodId> = self.active.keys().copied().collect();
        for pod in pods {
            self.drop_pull(pod, host, world);
        }
    }

    /// Requests further layers up to the limit, unpacks the next one, and completes the pull when
    /// all are unpacked.
    fn continue_layers(&mut self, pod: PodId, host: &mut Host<'_>, world: &mut World) {
        self.request_layers(pod, host, world);
        let Some(pull) = self.active.get(&pod) else {
            return;
        };
        let Step::Layers(image, _) = &pull.step else {
            return;
        };
        let image = Arc::clone(image);
        let next = pull.layers().find(|(layer, state)| {
            *state != LayerState::Held || self.layers.contains_key(&layer.digest)
        });
        match next {
            None => self.complete(pod, &image, false, host, world),
            Some((layer, LayerState::Held)) => {
                let work = self.layers.get_mut(&layer.digest);
                if let Some(work) = work.filter(|work| work.stage == LayerStage::Downloaded) {
                    work.stage = LayerStage::Unpacking;
                    let time = unpack_time(layer.size.unpacked, host.settings.unpack_rate);
                    host.timers.set(Timer::LayerUnpacked(layer.digest), world.now.after(time));
                }
            }
            Some(_) => {}
        }
    }

    fn request_layers(&mut self, pod: PodId, host: &mut Host<'_>, world: &mut World) {
        let Some(pull) = self.active.get_mut(&pod) else {
            return;
        };
        let fetching = pull.layers().filter(|(_, state)| *state == LayerState::Fetching).count();
        let mut free = host.settings.max_concurrent_downloads.max(1).saturating_sub(fetching);
        let missing = pull.layers().filter(|(_, state)| *state == LayerState::Missing);
        let missing: Vec<Layer> = missing.map(|(layer, _)| layer).collect();
        for layer in missing {
            if free == 0 {
                return;
            }
            // Another pull may have downloaded it in the meantime, and unpacked it.
            let is_in_work = self.layers.contains_key(&layer.digest);
            let is_stored = host.store.retain_layer(&layer.digest);
            if is_in_work || !is_stored {
                let registry = world.registries.id(&pull.request.reference);
                let latency = world.registries.settings(registry).blob_latency;
                let image = pull.request.reference.normalized();
                let work = self.layers.entry(layer.digest).or_insert_with(|| {
                    host.timers.set(Timer::LayerRequested(layer.digest), world.now.after(latency));
                    let (stage, image) = (LayerStage::Requested, image.to_owned());
                    LayerWork { layer, stage, pulls: Vec::new(), image }
                });
                work.pulls.push(pod);
            }
            if is_stored {
                pull.set(layer.digest, LayerState::Held);
            } else {
                pull.set(layer.digest, LayerState::Fetching);
                free = free.saturating_sub(1);
            }
        }
    }

    fn complete(
        &mut self,
        pod: PodId,
        image: &Arc<Image>,
        was_present: bool,
        host: &mut Host<'_>,
        world: &mut World,
    ) {
        let Some(pull) = self.active.get(&pod) else {
            return;
        };
        let reference = &pull.request.reference;
        let is_private = world.registries.is_private(reference);
        let secrets = if is_private { pull.request.secrets.as_slice() } else { &[] };
        let time = world.now.since(pull.started);
        let pulled = Pulled { time, size: image.size(), was_present };
        // The store accepts the image, because the pull holds all of its layers.
        let added = host.store.add_image(image, reference, secrets);
        let failure = |_| PullError::NoSpace(reference.normalized().to_owned(), image.digest());
        let result = added.map(|()| pulled).map_err(failure);
        self.results.push_back(PullResult { pod, result });
        self.drop_pull(pod, host, world);
        self.start_waiting(host, world);
    }

    fn fail(&mut self, pod: PodId, error: PullError, host: &mut Host<'_>, world: &mut World) {
        self.drop_pull(pod, host, world);
        self.results.push_back(PullResult { pod, result: Err(error) });
        self.start_waiting(host, world);
    }

    /// Removes a pull, its references to layers, and what no other pull waits for.
    fn drop_pull(&mut self, pod: PodId, host: &mut Host<'_>, world: &mut World) {
        host.timers.cancel(Timer::Pull(pod));
        let Some(pull) = self.active.remove(&pod) else {
            return;
        };
        for (layer, state) in pull.layers() {
            if state == LayerState::Held
                && let Some(in_vain) = host.store.release_layer(&layer.digest)
            {
                world.counters.in_vain(host.node, in_vain);
            }
            self.leave_layer(pod, layer.digest, host, world);
        }
    }

    /// Removes a pull from those that wait for a layer. Stops the work on it without any.
    fn leave_layer(&mut self, pod: PodId, digest: Digest, host: &mut Host<'_>, world: &mut World) {
        let Some(work) = self.layers.get_mut(&digest) else {
            return;
        };
        work.pulls.retain(|waiting| *waiting != pod);
        if !work.pulls.is_empty() {
            return;
        }
        host.timers.cancel(Timer::LayerRequested(digest));
        host.timers.cancel(Timer::LayerUnpacked(digest));
        let download = Download { node: host.node, layer: digest };
        if let Some(received) = world.network.cancel(download, world.now) {
            world.counters.downloaded(host.node, &work.image, received);
            world.counters.in_vain(host.node, received);
        }
        self.layers.remove(&digest);
    }
}

/// Returns the states of an image's layers at the start of a pull, and takes references to those
/// that the store has. Layers that another pull has not unpacked yet count as missing, so that the
/// pull waits for them.
fn initial_states(
    image: &Image,
    in_work: &BTreeMap<Digest, LayerWork>,
    host: &mut Host<'_>,
) -> Vec<LayerState> {
    let state = |layer: &Layer| {
        let is_unpacked = !in_work.contains_key(&layer.digest);
        if is_unpacked && host.store.retain_layer(&layer.digest) {
            LayerState::Held
        } else {
            LayerState::Missing
        }
    };
    image.layers().iter().map(state).collect()
}

/// Returns the time to unpack a layer; zero at a rate of 0.
fn unpack_time(bytes: u64, rate: u64) -> Duration {
    let micros = u128::from(bytes).saturating_mul(1_000_000);
    let micros = micros.checked_div(u128::from(rate)).unwrap_or_default();
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
