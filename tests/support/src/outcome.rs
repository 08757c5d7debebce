//! Outcome of a task while processes are killed or requests fail, compared with an undisturbed run.

use std::{collections::BTreeMap, time::Duration};

use prewarmer_api::task::{Phase, PrewarmTaskStatus};
use serde_json::json;

use crate::{
    cluster::Cluster, fixtures::env_number, job_recorder::JobRecorder, namespace::Namespace,
};

/// Timeout for a task. Each of many interruptions lasts until the dead leader's Lease has expired.
pub const TIMEOUT: Duration = Duration::from_secs(900);

/// Returns the number of nodes of a task, which longer runs raise by `PREWARMER_TEST_NODES`.
pub fn node_count() -> usize {
    env_number("PREWARMER_TEST_NODES", 40)
}

/// Task with a known outcome.
pub struct TaskFixture {
    images: &'static [&'static str],
    timeout: &'static str,
    /// Reports whether the nodes that are retried may be distributed over several batches: those
    /// that fail at once, while the failures of others are not observed yet.
    retry_batches_vary: bool,
}

/// Task in which some nodes never get one image and some get another only at the second attempt.
/// The first attempt of those uses all of its timeout, which is much longer than any other node
/// needs. Each pull takes 6 s, so that an interruption usually meets workers in progress.
pub const TRANSIENT_FAILURES: TaskFixture = TaskFixture {
    images: &["slow:1", "picky:1", "wobbly:1"],
    timeout: "20s",
    retry_batches_vary: false,
};
/// Task in which no node reaches its timeout, however long the API server is down. Some nodes never
/// get one image, and the kubelet of some rejects the worker at the first attempt.
pub const LONG_TIMEOUT: TaskFixture = TaskFixture {
    images: &["slow:1", "picky:1", "refused:1"],
    timeout: "10m",
    retry_batches_vary: true,
};

/// Pull methods. Runs with either have the same outcome.
pub const METHODS: [&str; 2] = ["ImageVolume", "Helper"];

fn apply_fixture(
    namespace: &Namespace,
    name: &str,
    nodes: usize,
    work: &TaskFixture,
    method: &str,
) {
    let retry = json!({"limit": 1, "delay": "1s"});
    let spec = json!({"images": work.images, "nodes": nodes, "batchSize": 20, "timeout": work.timeout,
        "pullMethod": method, "imagePullPolicy": "Always", "failurePolicy": "Retry", "retry": retry, "nodeSelector": {"type": "fake"},
        "successThreshold": "85%"});
    namespace.apply_task(name, &spec);
}

/// Returns a status without the fields in which two runs of the same task differ. Only the helper
/// method learns digests.
fn comparable(mut status: PrewarmTaskStatus, work: &TaskFixture) -> PrewarmTaskStatus {
    if work.retry_batches_vary {
        (status.current_batch_index, status.total_batches) = (0, 0);
    }
    status.start_time = None;
    status.completion_time = None;
    status.conditions.clear();
    status.batch_ends.clear();
    for failure in &mut status.failed_nodes {
        failure.time.clear();
    }
    for image in &mut status.images {
        image.digest = None;
    }
    status.failed_nodes.sort_by(|a, b| a.node.cmp(&b.node));
    status
}

/// Asserts one Job per node, or two where the first attempt fails with a transient reason.
fn assert_jobs_per_node(made: &BTreeMap<String, usize>, nodes: usize) {
    assert_eq!(made.len(), nodes);
    for (node, jobs) in made {
        let expected = if node.ends_with('3') { 2 } else { 1 };
        assert_eq!(*jobs, expected, "{node}");
    }
}

/// Runs of the same task: the first without interruption, the others while a process is killed.
pub struct OutcomeComparison<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace,
    nodes: usize,
    fixture: TaskFixture,
    /// Outcome of the run without interruption.
    expected: PrewarmTaskStatus,
}

impl<'a> OutcomeComparison<'a> {
    /// Runs the task once without interruption and asserts its outcome.
    pub async fn new(
        cluster: &'a Cluster,
        namespace: &'a Namespace,
        nodes: usize,
        work: TaskFixture,
    ) -> Self {
        apply_fixture(namespace, "undisturbed", nodes, &work, METHODS[0]);
        let status = namespace.wait_until_ended("undisturbed", TIMEOUT).await;
        assert_eq!(status.phase, Phase::Completed, "{status:#?}");
        let failed = (1..=nodes).filter(|n| n % 10 == 7).count();
        assert_eq!(status.failed_node_count as usize, failed, "{status:#?}");
        let expected = comparable(status, &work);
        Self { cluster, namespace, nodes, fixture: work, expected }
    }

    /// Runs one task while `disturb` interferes, and asserts the outcome of the undisturbed run and
    /// the expected number of Jobs. The pull method alternates by `round`.
    pub async fn run_disturbed(&self, name: &str, round: usize, disturb: impl AsyncFnOnce()) {
        let watched = JobRecorder::new(self.cluster, self.namespace).await;
        let method = METHODS[round % METHODS.len()];
        apply_fixture(self.namespace, name, self.nodes, &self.fixture, method);
        disturb().await;
        let status = self.namespace.wait_until_ended(name, TIMEOUT).await;
        assert_eq!(comparable(status, &self.fixture), self.expected, "{name}, {method}");
        assert_jobs_per_node(&watched.jobs_per_node(), self.nodes);
    }

    /// Reports whether a task has ended.
    pub fn has_ended(&self, name: &str) -> bool {
        self.namespace.status(name).phase.is_terminal()
    }

    /// Waits until this share of the task's nodes, in percent, has a result, or the task has ended.
    pub async fn wait_for_share(&self, name: &str, percent: usize) {
        let reached = || async {
            let status = self.namespace.status(name);
            (self.percent_ended(name) >= percent || status.phase.is_terminal()).then_some(())
        };
        self.namespace.eventually(&format!("{percent} % of {name}"), TIMEOUT, reached).await;
    }

    /// Returns the share of the task's nodes that have a result, in percent.
    pub fn percent_ended(&self, name: &str) -> usize {
        let status = self.namespace.status(name);
        (status.succeeded_nodes + status.failed_node_count) as usize * 100 / self.nodes
    }
}
