//! Settings of the controller and of workers.

use std::time::Duration;

use clap::Args;
use prewarmer_cli::settings::{boolean, choice, duration, number};
use prewarmer_core::{
    controller::{ControllerSettings, WorkerNamespace},
    image::ImageRef,
    settings::{Choice, Number, Setting, SettingsChecker, Span, split_list},
    task::{PullPolicy, plan::BatchSizeBreaker},
    worker::WorkerSettings,
};

use super::limits::{LimitArgs, MAX_IMAGES, MAX_TASKS, MAX_WORKERS};

/// Longest time to live in the warm image cache: by then the kubelet may have deleted the image.
const MAX_KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Pull policies of the helper image.
const PULL_POLICIES: &[(&str, PullPolicy)] =
    &[("IfNotPresent", PullPolicy::IfNotPresent), ("Always", PullPolicy::Always)];
/// Prefix of normalized references to the image that image prewarm services use as the worker.
const BUSYBOX: &str = "docker.io/library/busybox:";
/// Names of the namespaces of worker pods.
const WORKER_NAMESPACES: &[(&str, WorkerNamespace)] = &[
    ("Workload", WorkerNamespace::Workload),
    ("Own", WorkerNamespace::Own),
    ("Fallback", WorkerNamespace::Fallback),
];
/// Longest time to live of a finished Job, in seconds: a week.
const MAX_JOB_TTL_SECONDS: u32 = 7 * 24 * 3600;
/// Highest number of nodes of the settings `--breaker-*`.
const MAX_BREAKER: u32 = 100_000;
/// Highest number of finished workers: 500 below the number of finished pods at which Kubernetes
/// deletes some.
const MAX_RETAINED_WORKERS: u32 = 12_000;

/// Settings of the pods that pull images, unparsed.
#[derive(Debug, Args, Clone)]
#[allow(clippy::struct_field_names, reason = "the names of the flags")]
pub struct WorkerArgs {
    /// Image of the helper that runs on nodes.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Pull policy of the helper image: `IfNotPresent` or `Always`. That of the warmed images is
    /// `imagePullPolicy` of the task.
    #[arg(
        long, env = "WORKER_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
        value_parser = choice(PULL_POLICIES)
    )]
    pub worker_image_pull_policy: Setting<Choice<PullPolicy>>,
    /// Priority class of worker pods.
    #[arg(long, env = "WORKER_PRIORITY_CLASS")]
    pub worker_priority_class: Option<String>,
}

/// Settings of the controller, unparsed.
#[derive(Debug, Args, Clone)]
pub struct ControllerArgs {
    /// Seconds after which Kubernetes deletes a finished Job that the controller has not deleted,
    /// 60 to 604,800.
    #[arg(
        long, env = "JOB_TTL_SECONDS", default_value = "3600",
        value_parser = number(60..=MAX_JOB_TTL_SECONDS)
    )]
    pub job_ttl_seconds: Setting<Number>,
    /// Tasks that run concurrently, 1 to 1,000; further tasks wait in order of priority, then age.
    #[arg(
        long, env = "MAX_CONCURRENT_TASKS", default_value = "10",
        value_parser = number(1..=MAX_TASKS)
    )]
    pub max_concurrent_tasks: Setting<Number>,
    /// Namespace of worker pods: `Workload` (the task's namespace, with its credentials), `Own`
    /// (the installation's namespace, for tasks without credentials) or `Fallback` (the
    /// installation's namespace where the task's namespace refuses them and the task has no
    /// credentials).
    #[arg(
        long, env = "WORKER_NAMESPACE", default_value = "Workload",
        value_parser = choice(WORKER_NAMESPACES)
    )]
    pub worker_namespace: Setting<Choice<WorkerNamespace>>,
    /// Service account of worker pods in the installation's namespace. It should have no image pull
    /// secrets, because its pods work for tasks of all namespaces. Default: the namespace's default
    /// service account; the chart creates a separate one.
    #[arg(long, env = "WORKER_SERVICE_ACCOUNT")]
    pub worker_service_account: Option<String>,
    /// `true`: with `--worker-namespace=Fallback`, also use the installation's namespace where a
    /// policy of the task's namespace (Pod Security, an admission webhook or policy) refuses
    /// workers, not only where its `ResourceQuota` or `LimitRange` does.
    #[arg(long, env = "FALLBACK_ON_POLICY", default_value = "false", value_parser = boolean())]
    pub fallback_on_policy: Setting<Choice<bool>>,
    /// Images that one worker pod pulls, 1 to 100. A node with more images gets several pods, one
    /// after another.
    #[arg(
        long, env = "IMAGES_PER_POD", default_value = "30",
        value_parser = number(1..=MAX_IMAGES)
    )]
    pub images_per_pod: Setting<Number>,
    /// Concurrent workers in the cluster, over all tasks, 1 to 10,000.
    #[arg(long, env = "MAX_WORKERS", default_value = "300", value_parser = number(1..=MAX_WORKERS))]
    pub max_workers: Setting<Number>,
    /// Concurrent workers that pull from one registry, 1 to 10,000. Halved when the registry
    /// answers 429 or 503, then increased again step by step.
    #[arg(
        long, env = "REGISTRY_CONCURRENCY", default_value = "200",
        value_parser = number(1..=MAX_WORKERS)
    )]
    pub registry_concurrency: Setting<Number>,
    /// Time for which an image counts as warm on a node after a pull, up to 24h; `0s` disables this
    /// cache.
    #[arg(
        long, env = "KNOWN_FOR", default_value = "10m",
        value_parser = duration(Span::up_to(MAX_KNOWN_FOR))
    )]
    pub known_for: Setting<Span>,
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
    #[arg(
        long, env = "BREAKER_NODES", default_value = "5000",
        value_parser = number(1..=MAX_BREAKER)
    )]
    pub breaker_nodes: Setting<Number>,
    /// Largest batch size of tasks with more than `--breaker-nodes` nodes, 1 to 100,000.
    #[arg(
        long, env = "BREAKER_BATCH_SIZE", default_value = "50",
        value_parser = number(1..=MAX_BREAKER)
    )]
    pub breaker_batch_size: Setting<Number>,
    /// Finished workers kept by `retain` in the cluster, 0 to 12,000; the oldest are deleted first.
    /// At 12,500 finished pods Kubernetes itself deletes finished pods, including those of other
    /// owners.
    #[arg(
        long, env = "MAX_RETAINED_WORKERS", default_value = "8000",
        value_parser = number(0..=MAX_RETAINED_WORKERS)
    )]
    pub max_retained_workers: Setting<Number>,
}

impl ControllerArgs {
    /// Checks these settings and those of workers, and adds every problem to `check`. The caller
    /// sets what other settings decide: the namespaces, and whether nodes are checked.
    pub(crate) fn check(
        &self,
        worker: &WorkerArgs,
        check: &mut SettingsChecker,
    ) -> ControllerSettings {
        let max_concurrent_tasks = check.value(&self.max_concurrent_tasks) as usize;
        let max_workers = check.value(&self.max_workers) as usize;
        ControllerSettings {
            worker: self.worker(worker, check),
            max_concurrent_tasks,
            namespace: None,
            own_namespace: String::new(),
            worker_namespace: check.value(&self.worker_namespace),
            fallback_on_policy: check.value(&self.fallback_on_policy),
            breaker: self.breaker(check),
            node_checks_enabled: false,
            max_workers,
            limits: self.limits.check(max_concurrent_tasks, max_workers, check),
            registry_concurrency: check.value(&self.registry_concurrency) as usize,
            warm_image_ttl: check.value(&self.known_for),
            public_registries: split_list(&self.public_registries),
            max_retained_workers: check.value(&self.max_retained_workers) as usize,
        }
    }

    fn worker(&self, worker: &WorkerArgs, check: &mut SettingsChecker) -> WorkerSettings {
        let setting = "--worker-image (WORKER_IMAGE)";
        match worker.worker_image.parse::<ImageRef>() {
            Err(error) => check.problem(setting, &worker.worker_image, &error.to_string()),
            Ok(image) if image.normalized().starts_with(BUSYBOX) => {
                let expected = "expected the helper image of Prewarmer, which contains the program that workers run: \
                                remove the setting to use the default";
                check.problem(setting, &worker.worker_image, expected);
            }
            Ok(_) => {}
        }
        let given = |value: &Option<String>| value.clone().filter(|name| !name.is_empty());
        WorkerSettings {
            owner: None,
            service_account: given(&self.worker_service_account),
            image: worker.worker_image.clone(),
            image_pull_policy: check.value(&worker.worker_image_pull_policy),
            priority_class: given(&worker.worker_priority_class),
            ttl: Duration::from_secs(check.value(&self.job_ttl_seconds).into()),
            images_per_pod: check.value(&self.images_per_pod) as usize,
        }
    }

    fn breaker(&self, check: &mut SettingsChecker) -> BatchSizeBreaker {
        BatchSizeBreaker {
            node_threshold: check.value(&self.breaker_nodes) as usize,
            batch_size: check.value(&self.breaker_batch_size) as usize,
        }
    }
}
