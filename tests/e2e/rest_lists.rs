//! REST lists of many tasks.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};

use prewarmer_core::task::{PrewarmTask, PrewarmTaskSpec};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, env_number},
    namespace::Namespace,
    rest::RestClient,
    server::Server,
};
use serde_json::json;

use crate::TestCluster;

/// Timeout for ten thousand tasks on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Number of requests for each query.
const REQUESTS_PER_QUERY: usize = 300;
/// Share of the tasks that exist while the baseline is measured, as a divisor.
const BASELINE_DIVISOR: usize = 100;
/// Largest ratio of the median times of a list of the long form, with 100 times as many tasks as in
/// the baseline. Runs had ratios of up to 2.9: a list is filtered, so that its cost grows with the
/// number of tasks, but most of the time is that of the request and of the 20 tasks of its page.
const MAX_RATIO: f64 = 5.0;

/// Returns the number of finished tasks; the long form of the tests raises it.
fn task_count() -> usize {
    env_number("PREWARMER_TEST_TASKS", 300)
}

/// Creates the finished tasks with these numbers, of which every tenth has failed.
async fn create_tasks(tasks: &Api<PrewarmTask>, numbers: Range<usize>) {
    let make = |index: usize| {
        let tasks = tasks.clone();
        async move {
            let images = (0..3)
                .map(|image| format!("registry.example/shop/service-{image}:{index}"))
                .collect();
            let mut task = PrewarmTask::new(&format!("t{index:05}"), PrewarmTaskSpec::new(images));
            task.spec.suspend = true;
            tasks.create(&PostParams::default(), &task).await.unwrap();
            let (phase, nodes) =
                if index.is_multiple_of(10) { ("Failed", 10) } else { ("Completed", 100) };
            let status = json!({"status": {"phase": phase, "totalNodes": 100, "succeededNodes": nodes, "totalBatches": 10,
                "currentBatchIndex": 9, "progress": format!("{nodes}/100 Nodes"), "startTime": "2026-11-21T00:00:00Z",
                "completionTime": "2026-11-21T00:10:00Z", "nodeStates": "s".repeat(100),
                "conditions": [], "failedNodes": [], "ignoredNodes": [],
                "images": task.spec.images.iter().map(|image| json!({"image": image, "succeeded": nodes, "failed": 0})).collect::<Vec<_>>()}});
            tasks
                .patch_status(&task.name_any(), &PatchParams::default(), &Patch::Merge(&status))
                .await
                .unwrap();
        }
    };
    stream::iter(numbers.map(make)).buffer_unordered(32).for_each(|()| async {}).await;
}

/// Waits until the server knows this many tasks, then measures lists of up to 20 of them. Returns the
/// median times in milliseconds.
async fn measure_lists(caller: &RestClient, namespace: &Namespace, many: usize) -> Vec<f64> {
    let failed = many.div_ceil(10);
    let counted = || async {
        let stats = caller.get("/stats").await.body;
        (stats["tasks"]["failed"] == failed && stats["totalTasks"] == many).then_some(())
    };
    namespace.eventually("statistics of all tasks", TIMEOUT, counted).await;
    let mut medians = Vec::new();
    for (query, total) in [
        ("limit=20", many),
        ("status=failed&limit=20", failed),
        ("status=completed&limit=20&offset=5", many - failed),
        ("status=running&limit=20&offset=0", 0),
    ] {
        medians.push(measure_list(caller, many, query, total).await);
    }
    medians
}

/// Measures one list of `many` tasks, of which `total` match. Returns the median time in milliseconds.
async fn measure_list(caller: &RestClient, many: usize, query: &str, total: usize) -> f64 {
    let mut times = Vec::with_capacity(REQUESTS_PER_QUERY);
    for _ in 0..REQUESTS_PER_QUERY {
        let begun = Instant::now();
        let answer = caller.get(&format!("/tasks?{query}")).await;
        times.push(begun.elapsed());
        assert_eq!(answer.body["total"], total, "{query}");
    }
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "MEASURED {many} tasks, {query}: p50 {:.2} ms, p99 {:.2} ms, by one client over HTTP",
        at(50),
        at(99)
    );
    at(50)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_many_finished_tasks() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("many");
    let image = format!("--worker-image={HELPER}");
    let server =
        Server::with_args(cluster, &namespace, &namespace, &["--api-rate=100000", &image]).await;
    let caller = RestClient::editor(&server, &namespace);
    let (before, many) = (server.resident_kib(), task_count());
    let tasks: Api<PrewarmTask> = Api::namespaced(cluster.client().await, &namespace.name);
    let few = many.div_ceil(BASELINE_DIVISOR).max(20);
    create_tasks(&tasks, 0..few).await;
    let baseline = measure_lists(&caller, &namespace, few).await;
    create_tasks(&tasks, few..many).await;
    let medians = measure_lists(&caller, &namespace, many).await;
    // The baseline has no such page.
    let completed = many - many.div_ceil(10);
    measure_list(&caller, many, "status=completed&limit=100&offset=100", completed).await;
    let after = server.resident_kib();
    let ratios: Vec<f64> =
        medians.iter().zip(&baseline).map(|(median, baseline)| median / baseline).collect();
    let largest = ratios.iter().copied().fold(0.0, f64::max);
    println!(
        "MEASURED {many} tasks compared with {few}: median times of the same lists {}",
        ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ")
    );
    // The ratio of few tasks says nothing.
    assert!(many < 10_000 || largest <= MAX_RATIO, "{ratios:?}");
    let metrics = server.get("/metrics");
    let within = |bound: &str| -> f64 {
        let name = format!(
            "prewarm_api_request_duration_seconds_bucket{{method=\"GET\",route=\"/api/v1/tasks\",status=\"200\",le=\"{bound}\"}} "
        );
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
    };
    let share = |bound: &str| within(bound) * 100.0 / within("+Inf");
    println!(
        "MEASURED {many} tasks, all of these lists as measured by the server: {:.1} % within 1 ms, {:.1} % within 5 ms, {:.1} % within 10 ms",
        share("0.001"),
        share("0.005"),
        share("0.01")
    );
    let each = (after.saturating_sub(before)) * 1024 / many as u64;
    println!(
        "MEASURED {many} tasks: {before} KiB resident before, {after} KiB after, {each} bytes per task, of the leader"
    );
}
