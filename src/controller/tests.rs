//! A task against a simulated cluster: whatever happens, its invariants hold.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use proptest::prelude::*;

use super::{
    effects::{Refusal, Written},
    run::{Effect, Run, View},
    world::{Jobs, Pods},
};
use crate::{
    metrics::Metrics,
    node::Facts,
    task::{Amount, BatchPolicy, Phase, PrewarmPlanSpec, PrewarmTask, PrewarmTaskSpec},
    worker::{ContainerFacts, ContainerState, JobFacts, NODE_ANNOTATION, PodFacts, Reason, WorkerSettings},
};

/// What may happen between two steps.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// Time passes, in tenths of a second.
    Time(u8),
    /// The oldest pod that waits ends, well or badly.
    PodEnds { good: bool },
    /// The controller dies, and a successor takes over.
    Crash,
    /// A node is deleted.
    NodeGone(u8),
    /// Answers of the API server are lost: effects are done, and reported as failed.
    AnswersLost,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1u8..30).prop_map(Happening::Time),
        6 => any::<bool>().prop_map(|good| Happening::PodEnds { good }),
        1 => Just(Happening::Crash),
        1 => (0u8..12).prop_map(Happening::NodeGone),
        1 => Just(Happening::AnswersLost),
    ]
}

struct Simulation {
    task: PrewarmTask,
    nodes: BTreeMap<String, Facts>,
    jobs: Jobs,
    pods: Pods,
    plan: Option<Arc<PrewarmPlanSpec>>,
    run: Run,
    now: Timestamp,
    version: u64,
    lose_answers: bool,
    created: HashMap<String, usize>,
    limit: usize,
    metrics: Metrics,
}

impl Simulation {
    fn new(nodes: usize, batch: u32, policy: BatchPolicy) -> Self {
        let names = (0..nodes).map(|n| format!("n{n:02}"));
        let node = |name: String| (name.clone(), Facts { name, ready: true, os: "linux".into(), ..Facts::default() });
        let spec = PrewarmTaskSpec {
            batch_size: Amount::Count(batch),
            batch_policy: policy,
            timeout: "60s".into(),
            ..PrewarmTaskSpec::new(vec!["a:1".into()])
        };
        let mut task = PrewarmTask::new("t", spec);
        task.metadata.uid = Some("uid".into());
        task.metadata.namespace = Some("shop".into());
        task.metadata.resource_version = Some("1".into());
        Self {
            run: Run::resume(&task),
            task,
            nodes: names.map(node).collect(),
            jobs: Jobs::new(),
            pods: Pods::new(),
            plan: None,
            now: Timestamp::from_second(1_000_000).unwrap(),
            version: 1,
            lose_answers: false,
            created: HashMap::new(),
            limit: batch as usize,
            metrics: Metrics::new().unwrap(),
        }
    }

    fn phase(&self) -> Phase {
        self.task.phase()
    }

    fn step(&mut self) {
        let worker = WorkerSettings { image: "helper:1".into(), priority_class: None, ttl: Duration::from_secs(3600) };
        let busy = HashSet::new();
        self.run.see(&self.task);
        let view = View {
            nodes: &self.nodes,
            jobs: Some(&self.jobs),
            pods: &self.pods,
            plan: self.plan.as_ref(),
            busy: &busy,
            may_begin: true,
            worker: &worker,
            now: self.now,
        };
        for effect in self.run.step(&self.task, &view, &self.metrics) {
            let written = self.perform(&effect);
            let result = if self.lose_answers { Err(Refusal::Passing("lost".into())) } else { Ok(written) };
            self.run.done(&effect, result, &self.metrics, self.now);
        }
        assert!(self.jobs.len() <= self.limit, "{} Jobs alive", self.jobs.len());
        self.lose_answers = false;
    }

    fn perform(&mut self, effect: &Effect) -> Written {
        match effect {
            Effect::CreatePlan(plan) => {
                self.plan.get_or_insert_with(|| Arc::clone(plan));
            }
            Effect::CreateJob(job) => self.create(&job.name_any(), &job.annotations()[NODE_ANNOTATION]),
            Effect::DeleteJob(name) => {
                self.jobs.remove(name);
            }
            Effect::DeleteBatch(_) | Effect::DeleteAll => self.jobs.clear(),
            Effect::WriteStatus(status, _) => {
                assert!(!self.phase().is_terminal(), "a final phase was left for {:?}", status.phase);
                self.version += 1;
                self.task.status = Some((**status).clone());
                self.task.metadata.resource_version = Some(self.version.to_string());
                return Written { resource_version: self.task.resource_version() };
            }
            Effect::DeleteTask => unreachable!("the run itself never deletes its task"),
        }
        Written::default()
    }

    fn create(&mut self, name: &str, node: &str) {
        if self.jobs.contains_key(name) {
            return;
        }
        *self.created.entry(node.to_owned()).or_default() += 1;
        let job = JobFacts {
            namespace: "shop".into(),
            name: name.into(),
            task_uid: "uid".into(),
            node: node.into(),
            batch: 0,
            created: Some(self.now),
            deleting: false,
            failed: None,
        };
        self.jobs.insert(name.into(), job);
        let state = ContainerState::Waiting("ContainerCreating".into(), String::new());
        let container = ContainerFacts { state, image_id: String::new() };
        let pod = PodFacts {
            namespace: "shop".into(),
            job: name.into(),
            containers: [("image-0".to_owned(), container)].into(),
            ..PodFacts::default()
        };
        self.pods.insert(("shop".into(), name.into()), pod);
    }

    fn end_pod(&mut self, good: bool) {
        let waits = |pod: &&mut PodFacts| matches!(&pod.containers["image-0"].state, ContainerState::Waiting(reason, _) if reason == "ContainerCreating");
        let jobs = &self.jobs;
        let pod = self.pods.values_mut().filter(|pod| jobs.contains_key(&pod.job)).find(waits);
        if let Some(container) = pod.and_then(|pod| pod.containers.get_mut("image-0")) {
            container.state = if good {
                ContainerState::Terminated(0, "Completed".into(), String::new())
            } else {
                ContainerState::Waiting("ErrImagePull".into(), "not found".into())
            };
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Time(tenths) => self.pass(i64::from(tenths) * 100),
            Happening::PodEnds { good } => self.end_pod(good),
            Happening::Crash => self.run = Run::resume(&self.task),
            Happening::NodeGone(node) => {
                self.nodes.remove(&format!("n{node:02}"));
            }
            Happening::AnswersLost => self.lose_answers = true,
        }
    }

    fn pass(&mut self, milliseconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap();
    }

    /// Lets everything that waits end well, until the task has ended.
    fn finish(&mut self) {
        for _ in 0..2000 {
            if self.phase().is_terminal() {
                return;
            }
            self.end_pod(true);
            self.pass(600);
            self.step();
        }
        panic!("the task never ended: {:#?}", self.task.status);
    }
}

proptest! {
    #[test]
    fn whatever_happens_a_task_ends_with_exact_counts(
        happenings in proptest::collection::vec(happening(), 0..120),
        nodes in 1usize..12,
        batch in 1u32..5,
        policy in prop_oneof![Just(BatchPolicy::Barrier), Just(BatchPolicy::Rolling), Just(BatchPolicy::Doubling)],
    ) {
        let mut simulation = Simulation::new(nodes, batch, policy);
        for happening in happenings {
            if simulation.phase().is_terminal() {
                break;
            }
            simulation.happen(happening);
            simulation.step();
        }
        if simulation.plan.is_none() && simulation.nodes.is_empty() {
            return Ok(());
        }
        simulation.finish();
        let status = simulation.task.status.clone().unwrap();
        prop_assert_eq!(status.succeeded_nodes + status.failed_node_count + status.skipped_nodes, status.total_nodes);
        prop_assert_eq!(status.node_states.len(), status.total_nodes as usize);
        prop_assert!(!status.node_states.contains('.'));
        prop_assert!(simulation.jobs.is_empty(), "Jobs were left");
        let repeated: Vec<_> = simulation.created.iter().filter(|(_, count)| **count > 1).collect();
        prop_assert!(repeated.is_empty(), "warmed twice: {:?}", repeated);
        let image = &status.images[0];
        prop_assert_eq!(image.succeeded, status.succeeded_nodes);
        prop_assert_eq!(image.failed, status.failed_node_count);
    }
}

#[test]
fn a_node_that_takes_too_long_fails_with_the_last_complaint() {
    let mut simulation = Simulation::new(1, 1, BatchPolicy::Barrier);
    for _ in 0..5 {
        simulation.pass(1100);
        simulation.step();
    }
    for pod in simulation.pods.values_mut() {
        let state = ContainerState::Waiting("ErrImagePull".into(), "dial tcp: i/o timeout".into());
        pod.containers.insert("image-0".into(), ContainerFacts { state, image_id: String::new() });
    }
    simulation.pass(61_000);
    simulation.finish();
    let status = simulation.task.status.unwrap();
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.failed_nodes[0].reason, Reason::RegistryUnreachable.as_str());
}
