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
}

/// Task in which some nodes never get one image and some get another only at the second attempt.
/// The first attempt of those uses all of its timeout, which is much longer than any other node
/// needs.
pub const TRANSIENT_FAILURES: TaskFixture =
    TaskFixture { images: &["a:1", "picky:1", "wobbly:1"], timeout: "20s" };
/// Task in which no node reaches its timeout, however long the API server is down.
pub const LONG_TIMEOUT: TaskFixture = TaskFixture { images: &["a:1", "picky:1"], timeout: "10m" };

fn apply_fixture(namespace: &Namespace, name: &str, nodes: usize, work: &TaskFixture) {
    let retry = json!({"limit": 1, "delay": "1s"});
    let spec = json!({"images": work.images, "nodes": nodes, "batchSize": 20, "timeout": work.timeout,
        "imagePullPolicy": "Always", "failurePolicy": "Retry", "retry": retry, "nodeSelector": {"type": "fake"},
        "successThreshold": "85%"});
    namespace.apply_task(name, &spec);
}

/// Returns a status without the fields in which two runs of the same task differ.
fn comparable(mut status: PrewarmTaskStatus) -> PrewarmTaskStatus {
    status.start_time = None;
    status.completion_time = None;
    status.conditions.clear();
    status.batch_ends.clear();
    for failure in &mut status.failed_nodes {
        failure.time.clear();
    }
    status.failed_nodes.sort_by(|a, b| a.node.cmp(&b.node));
    status
}

/// Asserts one Job per node, or two where the first attempt fails with a transient reason.
fn assert_jobs_per_node(made: &BTreeMap<String, usize>, nodes: usize, work: &TaskFixture) {
    assert_eq!(made.len(), nodes);
    for (node, jobs) in made {
        let expected = if work.images.contains(&"wobbly:1") && node.ends_with('3') { 2 } else { 1 };
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
        apply_fixture(namespace, "undisturbed", nodes, &work);
        let status = namespace.wait_until_ended("undisturbed", TIMEOUT).await;
        assert_eq!(status.phase, Phase::Completed, "{status:#?}");
        let failed = (1..=nodes).filter(|n| n % 10 == 7).count();
        assert_eq!(status.failed_node_count as usize, failed, "{status:#?}");
        Self { cluster, namespace, nodes, fixture: work, expected: comparable(status) }
    }

    /// Runs one task while `disturb` interferes, and asserts the outcome of the undisturbed run and
    /// the expected number of Jobs.
    pub async fn run_disturbed(&self, name: &str, disturb: impl AsyncFnOnce()) {
        let watched = JobRecorder::new(self.cluster, self.namespace).await;
        apply_fixture(self.namespace, name, self.nodes, &self.fixture);
        disturb().await;
        let status = self.namespace.wait_until_ended(name, TIMEOUT).await;
        assert_eq!(comparable(status), self.expected, "{name}");
        assert_jobs_per_node(&watched.jobs_per_node(), self.nodes, &self.fixture);
    }

    /// Reports whether a task has ended.
    pub fn has_ended(&self, name: &str) -> bool {
        self.namespace.status(name).phase.is_terminal()
    }
}
