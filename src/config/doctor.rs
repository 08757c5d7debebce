//! The settings of `doctor`.

use std::time::Duration;

use clap::Args;

use super::{
    DEFAULT_NAMESPACE,
    check::{self, Check},
    object_name,
};

/// Longest that it waits.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What `doctor` takes.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Before an installation: whether the cluster and your rights will do.
    #[arg(long)]
    pub pre: bool,
    /// How long to wait for all to be well, such as `2m`.
    #[arg(long)]
    pub wait: Option<String>,
    /// Print JSON: `json` or `text`.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
    /// Namespace of the installation.
    #[arg(long, env = "K8S_NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Suffix of the installation's names, as of `serve`.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
    /// The only namespace that the installation looks at, as of `serve`.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Namespaces, separated by commas: whether they take the pods that pull, with their Pod Security, quotas and policies.
    #[arg(long, default_value = "")]
    pub namespaces: String,
    /// Namespace in which a workload is rehearsed, to see whether the webhook is called; nothing is stored.
    #[arg(long, default_value = "default")]
    pub review_in: String,
    /// The helper's image, as of `serve`, for policies that ask where images come from.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
}

/// What `doctor` is asked, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as of DoctorArgs")]
pub struct Doctor {
    pub pre: bool,
    pub wait: Option<Duration>,
    pub json: bool,
    pub namespace: String,
    pub object_name: String,
    pub watch_namespace: Option<String>,
    pub namespaces: Vec<String>,
    pub review_in: String,
    pub worker_image: String,
}

impl Doctor {
    /// Checks what was asked; every mistake is told.
    pub fn check(args: &DoctorArgs) -> Result<Self, Vec<String>> {
        let mut check = Check { problems: Vec::new() };
        let wait = args.wait.as_deref().map(|text| check.span("--wait", text, MAX_WAIT));
        let instance = args.instance.as_deref().filter(|text| !text.is_empty());
        let doctor = Self {
            pre: args.pre,
            wait,
            json: args.output == "json",
            namespace: args.namespace.clone(),
            object_name: object_name(instance),
            watch_namespace: args.watch_namespace.clone().filter(|name| !name.is_empty()),
            namespaces: check::list(&args.namespaces),
            review_in: args.review_in.clone(),
            worker_image: args.worker_image.clone(),
        };
        for (flag, name) in [("--namespace", &doctor.namespace), ("--review-in", &doctor.review_in)] {
            check.label(flag, name);
        }
        for name in &doctor.namespaces {
            check.label("--namespaces", name);
        }
        if check.problems.is_empty() { Ok(doctor) } else { Err(check.problems) }
    }
}
