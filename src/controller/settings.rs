//! Settings of the controller and of workers.

use std::time::Duration;

use clap::Args;
use prewarmer_core::{
    controller::{ControllerSettings, WorkerNamespace},
    image::ImageRef,
    settings::{SettingsChecker, split_list},
    task::plan::BatchSizeBreaker,
    worker::WorkerSettings,
};

use super::limits::LimitArgs;

/// Longest time to live in the warm image cache: by then the kubelet may have deleted the image.
const MAX_KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Settings of the pods that pull images, unparsed.
#[derive(Debug, Args, Clone)]
pub struct WorkerArgs {
    /// Image of the helper that runs on nodes.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Priority class of worker pods.
    #[arg(long, env = "WORKER_PRIORITY_CLASS")]
    pub worker_priority_class: Option<String>,
}

/// Settings of the controller, unparsed.
#[derive(Debug, Args, Clone)]
pub struct ControllerArgs {
    /// Seconds after which Kubernetes deletes a finished Job that the controller has not deleted,
    /// 60 to 604,800.
    #[arg(long, env = "JOB_TTL_SECONDS", default_value = "3600")]
    pub job_ttl_seconds: String,
    /// Tasks that run concurrently, 1 to 1,000; further tasks wait in order of priority, then age.
    #[arg(long, env = "MAX_CONCURRENT_TASKS", default_value = "10")]
    pub max_concurrent_tasks: String,
    /// Namespace of worker pods: `Workload` (the task's namespace, with its credentials), `Own`
    /// (the installation's namespace, for tasks without credentials) or `Fallback` (the
    /// installation's namespace where the task's namespace refuses them and the task has no
    /// credentials).
    #[arg(long, env = "WORKER_NAMESPACE", default_value = "Workload")]
    pub worker_namespace: String,
    /// Service account of worker pods in the installation's namespace. It should have no image pull
    /// secrets, because its pods work for tasks of all namespaces. Default: the namespace's default
    /// service account; the chart creates a separate one.
    #[arg(long, env = "WORKER_SERVICE_ACCOUNT")]
    pub worker_service_account: Option<String>,
    /// `true`: with `--worker-namespace=Fallback`, also use the installation's namespace where a
    /// policy of the task's namespace (Pod Security, an admission webhook or policy) refuses
    /// workers, not only where its `ResourceQuota` or `LimitRange` does.
    #[arg(long, env = "FALLBACK_ON_POLICY", default_value = "false")]
    pub fallback_on_policy: String,
    /// Images that one worker pod pulls, 1 to 100. A node with more images gets several pods, one
    /// after another.
    #[arg(long, env = "IMAGES_PER_POD", default_value = "30")]
    pub images_per_pod: String,
    /// Concurrent workers in the cluster, over all tasks, 1 to 10,000.
    #[arg(long, env = "MAX_WORKERS", default_value = "300")]
    pub max_workers: String,
    /// Concurrent workers that pull from one registry, 1 to 10,000. Halved when the registry
    /// answers 429 or 503, then increased again step by step.
    #[arg(long, env = "REGISTRY_CONCURRENCY", default_value = "200")]
    pub registry_concurrency: String,
    /// Time for which an image counts as warm on a node after a pull, up to 24h; `0s` disables this
    /// cache.
    #[arg(long, env = "KNOWN_FOR", default_value = "10m")]
    pub known_for: String,
    /// Registries that serve all their images without credentials, separated by commas, such as
    /// `registry.k8s.io,quay.io`. An image of these that a node reports counts as warm for every
    /// namespace. Any other image counts as warm only where a worker of the namespace, or one
    /// without credentials, pulled it within `--known-for`.
    #[arg(long, env = "PUBLIC_REGISTRIES", default_value = "")]
    pub public_registries: String,
    /// Limits for tasks and namespaces.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Number of nodes of a task above which `--breaker-batch-size` applies, 1 to 100,000.
    #[arg(long, env = "BREAKER_NODES", default_value = "5000")]
    pub breaker_nodes: String,
    /// Largest batch size of tasks with more than `--breaker-nodes` nodes, 1 to 100,000.
    #[arg(long, env = "BREAKER_BATCH_SIZE", default_value = "50")]
    pub breaker_batch_size: String,
    /// Finished workers kept by `retain` in the cluster, 0 to 12,000; the oldest are deleted first.
    /// At 12,500 finished pods Kubernetes itself deletes finished pods, including those of other
    /// owners.
    #[arg(long, env = "MAX_RETAINED_WORKERS", default_value = "8000")]
    pub max_retained_workers: String,
}

impl ControllerArgs {
    /// Checks these settings and those of workers, and adds every problem to `check`. The caller
    /// sets what other settings decide: the namespaces, and whether nodes are checked.
    pub(crate) fn check(
        &self,
        worker: &WorkerArgs,
        check: &mut SettingsChecker,
    ) -> ControllerSettings {
        let max_concurrent_tasks = check.number(
            "--max-concurrent-tasks (MAX_CONCURRENT_TASKS)",
            &self.max_concurrent_tasks,
            1,
            1000,
        ) as usize;
        let max_workers =
            check.number("--max-workers (MAX_WORKERS)", &self.max_workers, 1, 10_000) as usize;
        ControllerSettings {
            worker: self.worker(worker, check),
            max_concurrent_tasks,
            namespace: None,
            own_namespace: String::new(),
            worker_namespace: worker_namespace(check, &self.worker_namespace),
            fallback_on_policy: check
                .boolean("--fallback-on-policy (FALLBACK_ON_POLICY)", &self.fallback_on_policy),
            breaker: self.breaker(check),
            node_checks_enabled: false,
            max_workers,
            limits: self.limits.check(max_concurrent_tasks, max_workers, check),
            registry_concurrency: check.number(
                "--registry-concurrency (REGISTRY_CONCURRENCY)",
                &self.registry_concurrency,
                1,
                10_000,
            ) as usize,
            warm_image_ttl: check.duration(
                "--known-for (KNOWN_FOR)",
                &self.known_for,
                MAX_KNOWN_FOR,
            ),
            public_registries: split_list(&self.public_registries),
            max_retained_workers: check.number(
                "--max-retained-workers (MAX_RETAINED_WORKERS)",
                &self.max_retained_workers,
                0,
                12_000,
            ) as usize,
        }
    }

    fn worker(&self, worker: &WorkerArgs, check: &mut SettingsChecker) -> WorkerSettings {
        if let Err(error) = worker.worker_image.parse::<ImageRef>() {
            let setting = "--worker-image (WORKER_IMAGE)";
            check.problem(setting, &worker.worker_image, &error.to_string());
        }
        let given = |value: &Option<String>| value.clone().filter(|name| !name.is_empty());
        WorkerSettings {
            owner: None,
            service_account: given(&self.worker_service_account),
            image: worker.worker_image.clone(),
            priority_class: given(&worker.worker_priority_class),
            ttl: Duration::from_secs(
                check
                    .number(
                        "--job-ttl-seconds (JOB_TTL_SECONDS)",
                        &self.job_ttl_seconds,
                        60,
                        604_800,
                    )
                    .into(),
            ),
            images_per_pod: check.number(
                "--images-per-pod (IMAGES_PER_POD)",
                &self.images_per_pod,
                1,
                100,
            ) as usize,
        }
    }

    fn breaker(&self, check: &mut SettingsChecker) -> BatchSizeBreaker {
        let nodes =
            check.number("--breaker-nodes (BREAKER_NODES)", &self.breaker_nodes, 1, 100_000);
        let at_once = check.number(
            "--breaker-batch-size (BREAKER_BATCH_SIZE)",
            &self.breaker_batch_size,
            1,
            100_000,
        );
        BatchSizeBreaker { node_threshold: nodes as usize, batch_size: at_once as usize }
    }
}

fn worker_namespace(check: &mut SettingsChecker, value: &str) -> WorkerNamespace {
    match value {
        "Workload" => WorkerNamespace::Workload,
        "Own" => WorkerNamespace::Own,
        "Fallback" => WorkerNamespace::Fallback,
        _ => {
            check.problem(
                "--worker-namespace (WORKER_NAMESPACE)",
                value,
                "expected Workload, Own or Fallback",
            );
            WorkerNamespace::Workload
        }
    }
}
