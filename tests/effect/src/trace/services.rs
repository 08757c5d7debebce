//! Traces of services: pods that run until they are replaced.

use std::time::Duration;

use prewarmer_fleet::image::LayerSize;

use super::{Action, Builder, objects::Workload, scaled};

/// Registry of the images. The simulated registry answers for every host.
pub(super) const REGISTRY: &str = "registry.example";
/// Number of services in a full trace.
const SERVICES: usize = 12;
/// Time between the first state and the first change, in which each service starts.
const SETTLING: Duration = Duration::from_secs(120);
/// Time between two versions of a service.
const RELEASE_INTERVAL: Duration = Duration::from_secs(360);
/// Share of the files of an image that are larger than the compressed layer: 2.5 times, as with
/// generated images (an assumption).
const UNPACKED_TENTHS: u64 = 25;

/// Returns the image of a version.
fn image(name: &str, version: usize) -> String {
    format!("{REGISTRY}/{name}:v{version}")
}

/// Adds services, each of which gets a new version every six minutes: in five of eight by a rolling
/// update, in one by replacing all pods at once, in one as a `StatefulSet`, in one as a `DaemonSet`.
pub(super) fn rollouts(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("rollouts");
    for service in 0..scaled(SERVICES, percent) {
        let name = format!("service-{service}");
        // From 1 % to 10 % of the number of nodes, many small ones.
        let permille = random.sample(&[(500, 20), (900, 60), (1_000, 100)]);
        let replicas = builder.share(usize::try_from(permille).unwrap_or(usize::MAX));
        let offset = random.duration_below(RELEASE_INTERVAL);
        for version in 0..4_u32 {
            let wait = RELEASE_INTERVAL.saturating_mul(version.saturating_sub(1));
            let at = match version {
                0 => Duration::ZERO,
                _ => SETTLING.saturating_add(offset).saturating_add(wait),
            };
            let image = image(&name, usize::try_from(version).unwrap_or_default());
            let workload = Workload::new(&name, &image);
            let object = match service % 8 {
                5 => workload.deployment(replicas, "Recreate"),
                6 => workload.stateful_set(replicas),
                7 => workload.daemon_set(),
                _ => workload.deployment(replicas, "RollingUpdate"),
            };
            builder.add(at, Action::Apply(object));
        }
    }
}

/// Adds services whose number of replicas rises from a fifth to the whole and falls again, every
/// ten minutes.
pub(super) fn autoscaling(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("autoscaling");
    for service in 0..scaled(SERVICES, percent) {
        let name = format!("scaled-{service}");
        let image = image(&name, 0);
        let permille = random.between(30, 120);
        let most = builder.share(usize::try_from(permille).unwrap_or(usize::MAX));
        let offset = random.duration_below(SETTLING);
        // Steps of a minute: tenths of the greatest number.
        let day = [2, 2, 3, 5, 7, 9, 10, 10, 7, 4];
        for (minute, tenths) in (0..20_u32).zip(day.iter().cycle()) {
            let replicas = most.saturating_mul(*tenths).div_ceil(10);
            let at = Duration::from_secs(60).saturating_mul(minute).saturating_add(offset);
            let object = Workload::new(&name, &image).deployment(replicas, "RollingUpdate");
            builder.add(at, Action::Apply(object));
        }
    }
}

/// Adds services in all zones; after four minutes all nodes of the last zone are lost.
pub(super) fn zone_failover(builder: &mut Builder) {
    steady_services(builder, "failover");
    let lost: Vec<usize> = (0..builder.trace.machines.len()).filter(|node| node % 3 == 2).collect();
    builder.add(Duration::from_secs(240), Action::Lose(lost));
}

/// Adds services; from the second minute on, a fiftieth of the nodes is drained every 20 seconds and
/// replaced 10 seconds later.
pub(super) fn node_upgrade(builder: &mut Builder) {
    steady_services(builder, "upgrade");
    // At most fifty groups, of which the last is replaced after 120 + 49 × 20 + 10 = 1,110 s.
    let at_once = builder.trace.machines.len().div_ceil(50).max(1);
    let all: Vec<usize> = (0..builder.trace.machines.len()).collect();
    let mut at = SETTLING;
    for nodes in all.chunks(at_once) {
        builder.add(at, Action::Drain(nodes.to_vec()));
        builder.add(at.saturating_add(Duration::from_secs(10)), Action::Replace(nodes.to_vec()));
        at = at.saturating_add(Duration::from_secs(20));
    }
}

/// Adds services that are not changed.
fn steady_services(builder: &mut Builder, name: &str) {
    let mut random = builder.random(name);
    for service in 0..SERVICES {
        let name = format!("{name}-{service}");
        let permille = random.between(20, 150);
        let replicas = builder.share(usize::try_from(permille).unwrap_or(usize::MAX));
        let image = image(&name, 0);
        let object = Workload::new(&name, &image).deployment(replicas, "RollingUpdate");
        builder.add(Duration::ZERO, Action::Apply(object));
    }
}

/// Adds services with images of 8 to 40 GB, whose pods take one GPU of eight.
pub(super) fn inference(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("inference");
    let gpu_nodes = builder.trace.machines.iter().filter(|machine| machine.gpus > 0).count();
    for service in 0..scaled(4, percent) {
        let name = format!("model-{service}");
        let image = image(&name, 0);
        // The weights are a few large layers above a runtime of 4 GB.
        let weights = random.between(4_000_000_000, 36_000_000_000);
        let layer = |compressed: u64| LayerSize {
            compressed,
            unpacked: compressed.saturating_mul(UNPACKED_TENTHS) / 10,
        };
        let weight = |compressed| LayerSize { compressed, unpacked: compressed };
        let mut layers = vec![layer(1_000_000_000), layer(3_000_000_000)];
        layers.extend((0..4).map(|_| weight(weights / 4)));
        builder.trace.images.insert(image.clone(), layers);
        let most = gpu_nodes.saturating_mul(2).max(2);
        for (step, tenths) in (0..5_u32).zip([1_usize, 6, 2, 10, 3]) {
            let replicas = most.saturating_mul(tenths).div_ceil(10);
            let at = Duration::from_secs(240).saturating_mul(step);
            let workload = Workload { gpus: 1, ..Workload::new(&name, &image) };
            builder.add(at, Action::Apply(workload.deployment(replicas, "RollingUpdate")));
        }
    }
}
