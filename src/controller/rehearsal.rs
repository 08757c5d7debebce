//! A task at work on imagined nodes, for the benches.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    Settings, Shared,
    effect::{Effect, Written},
    limits::{Most, Room},
    run::Run,
    view::{Turn, View},
    world::{Pods, Workers},
};
use crate::{
    metrics::Metrics,
    node::Facts,
    reduced::ReducedPod,
    task::{PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec},
    worker::{
        PodFacts, WorkerFacts,
        provenance::{self, Places},
    },
};

/// A task with a whole batch at work.
pub struct Rehearsal {
    task: PrewarmTask,
    nodes: BTreeMap<String, Facts>,
    workers: Workers,
    pods: Pods,
    plan: Arc<PrewarmPlanSpec>,
    run: Run,
    shared: Shared,
    now: Timestamp,
}

impl Rehearsal {
    /// A task with this spec that has chosen all of `nodes` and started its first batch. An error means that a metric is
    /// registered twice, or that a worker cannot be read back.
    pub fn new(
        nodes: Vec<Facts>,
        spec: PrewarmTaskSpec,
        settings: Settings,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut task = PrewarmTask::new("rehearsal", spec);
        task.metadata.uid = Some("uid".into());
        task.metadata.namespace = Some("default".into());
        let plan = PrewarmPlanSpec {
            nodes: nodes.iter().map(|node| node.name.clone()).collect(),
            ..PrewarmPlanSpec::default()
        };
        let mut rehearsal = Self {
            run: Run::resume(&task, &settings),
            task,
            nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
            workers: Workers::new(),
            pods: Pods::new(),
            plan: Arc::new(plan),
            shared: Shared::new(Arc::new(settings), Arc::new(Metrics::new()?)),
            now: Timestamp::now(),
        };
        for effect in rehearsal.look() {
            if let Effect::Create(creation) = &effect {
                let pod: ReducedPod = serde_json::from_slice(&creation.body)?;
                let claim = provenance::of_pod(&pod, &Places::default());
                let claim = claim.map_err(|reason| format!("a worker of ours: {}", reason.explain()))?;
                let worker = WorkerFacts { since: Some(rehearsal.now), ..claim.worker };
                rehearsal.pods.insert(worker.key(), PodFacts::new(&pod, &crate::node::Interner::default()));
                rehearsal.workers.insert(worker.key(), worker);
            }
            rehearsal.run.done(&effect, Ok(Written::default()), &mut rehearsal.shared, rehearsal.now);
        }
        Ok(rehearsal)
    }

    /// One look of the controller; how many effects it asks for.
    pub fn step(&mut self) -> usize {
        self.look().len()
    }

    /// How many workers are at work.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    fn look(&mut self) -> Vec<Effect> {
        let (most, per_namespace) =
            (self.shared.settings.max_workers, self.shared.settings.limits.workers_per_namespace);
        let most = Most { all: most, per_namespace };
        let hosts = self.run.hosts().iter().map(|host| (host.clone(), self.workers.len())).collect();
        let seats =
            self.run.seats(Some(&self.workers), &self.pods, self.now, SignedDuration::from_secs(60), usize::MAX);
        self.shared.room = Room::new(seats, most, hosts, &self.shared.budgets, self.now);
        let view = View {
            nodes: &self.nodes,
            workers: Some(&self.workers),
            pods: &self.pods,
            plan: Some(&self.plan),
            contested: &|_| false,
            turn: Turn::Now,
            now: self.now,
        };
        self.run.step(&self.task, &view, &mut self.shared)
    }
}
