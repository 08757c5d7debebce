//! Traces: what users do with a cluster in the course of time.
//!
//! A trace is a value: machines, images, and objects that are applied and deleted at points in
//! simulated time. It follows from its name, a seed and the number of nodes only, so that each
//! policy meets the same. Which pods run where is decided by the real scheduler and controllers.
//!
//! | trace | what happens |
//! |---|---|
//! | [`Kind::Rollouts`] | new versions of services: rolling update, recreate, `StatefulSet`, `DaemonSet` |
//! | [`Kind::Autoscaling`] | services that grow and shrink as in the course of a day |
//! | [`Kind::ZoneFailover`] | all nodes of one of three zones disappear |
//! | [`Kind::NodeUpgrade`] | nodes are drained and come back with an empty disk, a few at a time |
//! | [`Kind::Inference`] | services with images of 8 to 40 GB on nodes with GPUs grow and shrink |
//! | [`Kind::ContinuousIntegration`] | Jobs, each with an image of its own |
//! | [`Kind::CronJobs`] | the same Jobs every minute |
//! | [`Kind::Workflows`] | chains of bare pods that use the same few images again and again |
//! | [`Kind::Bursts`] | a driver and many executors of one image at once, as Spark creates them |
//! | [`Kind::Mixed`] | all of these next to one another, smaller |

mod batch;
mod objects;
mod services;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use prewarmer_fleet::{Random, image::LayerSize};
use serde_json::Value;

use crate::connect::nodes::Machine;

/// Zones of a cluster.
const ZONES: [&str; 3] = ["a", "b", "c"];
/// Duration of a full trace.
const FULL_DURATION: Duration = Duration::from_secs(1_200);
/// Label of the nodes with GPUs, by which the pods that need them are placed, as node pools of cloud
/// providers are labelled. Prewarmer reads placement, not resources.
const GPU_LABEL: (&str, &str) = ("pool", "gpu");

/// Kind of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// New versions of services.
    Rollouts,
    /// Services that grow and shrink.
    Autoscaling,
    /// Loss of a zone.
    ZoneFailover,
    /// Nodes that are replaced one after another.
    NodeUpgrade,
    /// Services with very large images.
    Inference,
    /// Jobs with an image of their own each.
    ContinuousIntegration,
    /// Jobs by schedule.
    CronJobs,
    /// Chains of pods.
    Workflows,
    /// Many pods of one image at once.
    Bursts,
    /// All of them.
    Mixed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Rollouts,
        Self::Autoscaling,
        Self::ZoneFailover,
        Self::NodeUpgrade,
        Self::Inference,
        Self::ContinuousIntegration,
        Self::CronJobs,
        Self::Workflows,
        Self::Bursts,
        Self::Mixed,
    ];

    /// Returns the name, as on the command line and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollouts => "rollouts",
            Self::Autoscaling => "autoscaling",
            Self::ZoneFailover => "zone-failover",
            Self::NodeUpgrade => "node-upgrade",
            Self::Inference => "inference",
            Self::ContinuousIntegration => "continuous-integration",
            Self::CronJobs => "cron-jobs",
            Self::Workflows => "workflows",
            Self::Bursts => "bursts",
            Self::Mixed => "mixed",
        }
    }
}

/// Length of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// Twenty minutes.
    Full,
    /// Two minutes, to test the programs: all points in time are divided by ten, and so are the
    /// numbers of objects that are spread over the trace, so that their rate is that of the full
    /// trace. Run times and the schedule of `CronJobs` are not divided.
    Small,
}

impl Scale {
    /// Returns by what times and numbers are divided.
    fn divisor(self) -> u32 {
        match self {
            Self::Full => 1,
            Self::Small => 10,
        }
    }

    /// Returns the name, as on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Small => "small",
        }
    }
}

/// Change of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// An object is created, or changed to this state.
    Apply(Value),
    /// An object is deleted, with what belongs to it.
    Delete {
        /// API version.
        api_version: &'static str,
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// Machines disappear with their node objects; positions of the nodes.
    Lose(Vec<usize>),
    /// Nodes are cordoned, and their pods evicted; positions of the nodes.
    Drain(Vec<usize>),
    /// Drained machines come back with an empty disk; positions of the nodes.
    Replace(Vec<usize>),
}

/// Change at a point in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Simulated time since the start of the trace.
    pub at: Duration,
    /// Change.
    pub action: Action,
}

/// Changes of a cluster in the course of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Machines of the nodes, by position.
    pub machines: Vec<Machine>,
    /// Images whose layers the trace determines, by reference. All others are generated.
    pub images: BTreeMap<String, Vec<LayerSize>>,
    /// Changes in the order of time.
    pub steps: Vec<Step>,
    /// Simulated time after which the trace ends.
    pub duration: Duration,
}

impl Trace {
    /// Returns the trace of a kind for a cluster of this many nodes.
    #[must_use]
    pub fn new(kind: Kind, scale: Scale, seed: u64, nodes: usize) -> Self {
        let mut builder = Builder::new(kind, scale, seed, nodes);
        match kind {
            Kind::Rollouts => services::rollouts(&mut builder, 100),
            Kind::Autoscaling => services::autoscaling(&mut builder, 100),
            Kind::ZoneFailover => services::zone_failover(&mut builder),
            Kind::NodeUpgrade => services::node_upgrade(&mut builder),
            Kind::Inference => services::inference(&mut builder, 100),
            Kind::ContinuousIntegration => batch::continuous_integration(&mut builder, 100),
            Kind::CronJobs => batch::cron_jobs(&mut builder, 100),
            Kind::Workflows => batch::workflows(&mut builder, 100),
            Kind::Bursts => batch::bursts(&mut builder, 100),
            Kind::Mixed => {
                services::rollouts(&mut builder, 40);
                services::autoscaling(&mut builder, 40);
                services::inference(&mut builder, 40);
                batch::continuous_integration(&mut builder, 20);
                batch::cron_jobs(&mut builder, 40);
                batch::workflows(&mut builder, 20);
                batch::bursts(&mut builder, 20);
            }
        }
        builder.finish()
    }
}

/// Trace that is being made.
struct Builder {
    seed: u64,
    scale: Scale,
    trace: Trace,
}

impl Builder {
    /// Creates a trace without changes. A tenth of the nodes of the kinds with inference have GPUs.
    fn new(kind: Kind, scale: Scale, seed: u64, nodes: usize) -> Self {
        let has_gpus = matches!(kind, Kind::Inference | Kind::Mixed);
        let machine = |position: usize| {
            let zone = position.checked_rem(ZONES.len()).and_then(|index| ZONES.get(index));
            let zone = zone.copied().unwrap_or_default().to_owned();
            if has_gpus && position.is_multiple_of(10) {
                let labels = BTreeMap::from([(GPU_LABEL.0.to_owned(), GPU_LABEL.1.to_owned())]);
                Machine { zone, labels, gpus: 8, disk: 500_000_000_000, ..Machine::default() }
            } else {
                Machine { zone, ..Machine::default() }
            }
        };
        let trace = Trace {
            machines: (0..nodes).map(machine).collect(),
            images: BTreeMap::new(),
            steps: Vec::new(),
            duration: shortened(FULL_DURATION, scale),
        };
        Self { seed, scale, trace }
    }

    /// Returns a stream of random numbers of its own for each name.
    fn random(&self, name: &str) -> Random {
        Random::new(self.seed, &format!("trace {name}"))
    }

    /// Adds a change at a point in time of the full trace; later than its end without effect.
    fn add(&mut self, at: Duration, action: Action) {
        if at < FULL_DURATION {
            self.trace.steps.push(Step { at: shortened(at, self.scale), action });
        }
    }

    /// Returns a part of the number of nodes, at least one.
    fn share(&self, permille: usize) -> usize {
        self.trace.machines.len().saturating_mul(permille).checked_div(1_000).unwrap_or(0).max(1)
    }

    /// Returns how many of the objects that a full trace spreads over its time this trace has, at
    /// least one.
    fn spread(&self, count: usize, percent: usize) -> usize {
        let divisor = usize::try_from(self.scale.divisor()).unwrap_or(usize::MAX);
        scaled(count, percent).checked_div(divisor).unwrap_or_default().max(1)
    }

    fn finish(mut self) -> Trace {
        self.trace.steps.sort_by_key(|step| step.at);
        self.trace
    }
}

/// Returns a time of the full trace in a trace of another length.
fn shortened(time: Duration, scale: Scale) -> Duration {
    time.checked_div(scale.divisor()).unwrap_or_default()
}

/// Returns a number of objects reduced to a percentage, at least one.
fn scaled(count: usize, percent: usize) -> usize {
    count.saturating_mul(percent).div_ceil(100).max(1)
}
