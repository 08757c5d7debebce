//! Fixture for benchmarks: a task whose first batch is running on synthetic nodes.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    node::NodeInfo,
    slim::SlimPod,
    task::{PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec},
    worker::{
        PodInfo, WorkerInfo,
        provenance::{self, AllowedNamespaces},
    },
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    capacity::{Capacity, WorkerLimits},
    context::ReconcileContext,
    effect::{Effect, EffectOutput},
    settings::ControllerSettings,
    snapshot::{QueueDecision, Snapshot},
    task_state::TaskReconciler,
    worker_cache::{Pods, Workers},
};

/// Task with one entire batch of running workers.
pub struct BatchFixture {
    task: PrewarmTask,
    nodes: BTreeMap<String, NodeInfo>,
    workers: Workers,
    pods: Pods,
    plan: Arc<PrewarmPlanSpec>,
    reconciler: TaskReconciler,
    shared: ReconcileContext,
    now: Timestamp,
}

impl BatchFixture {
    /// Creates a task with this spec whose plan has all of `nodes`, and starts its first batch.
    ///
    /// Returns an error when a metric is registered twice, or when a created worker fails
    /// provenance.
    pub fn new(
        nodes: Vec<NodeInfo>,
        spec: PrewarmTaskSpec,
        settings: ControllerSettings,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut task = PrewarmTask::new("rehearsal", spec);
        task.metadata.uid = Some("uid".into());
        task.metadata.namespace = Some("default".into());
        let plan = PrewarmPlanSpec {
            nodes: nodes.iter().map(|node| node.name.clone()).collect(),
            ..PrewarmPlanSpec::default()
        };
        let mut rehearsal = Self {
            reconciler: TaskReconciler::resume(&task, &settings),
            task,
            nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
            workers: Workers::new(),
            pods: Pods::new(),
            plan: Arc::new(plan),
            shared: ReconcileContext::new(Arc::new(settings)),
            now: Timestamp::now(),
        };
        for effect in rehearsal.reconcile_effects() {
            if let Effect::CreateWorker(creation) = &effect {
                let pod: SlimPod = serde_json::from_slice(&creation.body)?;
                let claim = provenance::verify_pod(&pod, &AllowedNamespaces::default());
                let claim = claim.map_err(|reason| {
                    format!("created worker fails provenance: {}", reason.description())
                })?;
                let worker = WorkerInfo { first_seen: Some(rehearsal.now), ..claim.worker };
                rehearsal
                    .pods
                    .insert(worker.key(), PodInfo::new(&pod, &crate::node::Interner::default()));
                rehearsal.workers.insert(worker.key(), worker);
            }
            rehearsal.reconciler.effect_finished(
                &effect,
                Ok(EffectOutput::default()),
                &mut rehearsal.shared,
                rehearsal.now,
            );
        }
        Ok(rehearsal)
    }

    /// Runs one reconcile and returns the number of its effects.
    pub fn reconcile(&mut self) -> usize {
        self.reconcile_effects().len()
    }

    /// Returns the number of running workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    fn reconcile_effects(&mut self) -> Vec<Effect> {
        let (most, per_namespace) =
            (self.shared.settings.max_workers, self.shared.settings.limits.workers_per_namespace);
        let most = WorkerLimits { all: most, per_namespace };
        let hosts =
            self.reconciler.hosts().iter().map(|host| (host.clone(), self.workers.len())).collect();
        let seats = self.reconciler.worker_slots(
            Some(&self.workers),
            &self.pods,
            self.now,
            SignedDuration::from_secs(60),
            usize::MAX,
        );
        self.shared.capacity = Capacity::new(seats, most, hosts, &self.shared.budgets, self.now);
        let view = Snapshot {
            nodes: &self.nodes,
            workers: Some(&self.workers),
            pods: &self.pods,
            plan: Some(&self.plan),
            foreign_claim: &|_| None,
            queue_decision: QueueDecision::Admitted,
            now: self.now,
        };
        self.reconciler.reconcile(&self.task, &view, &mut self.shared)
    }
}
