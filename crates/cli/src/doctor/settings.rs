//! Settings of `doctor`.

use std::time::Duration;

use clap::Args;
use prewarmer_core::settings::{
    DEFAULT_NAMESPACE, SettingsChecker, SettingsError, object_name, split_list,
};

/// Longest time that `--wait` may be.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Check before an installation: the cluster's version and nodes, and your permissions.
    #[arg(long)]
    pub pre: bool,
    /// Time to wait until no check fails, such as `2m`, up to 1h.
    #[arg(long)]
    pub wait: Option<String>,
    /// Output format: `json` or `text`.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
    /// Namespace of the installation.
    #[arg(long, env = "K8S_NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Suffix of the installation's object names, as in `serve`.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
    /// Only namespace that the installation watches, as in `serve`.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Namespaces to check, separated by commas: whether their Pod Security, quotas and policies
    /// admit worker pods.
    #[arg(long, default_value = "")]
    pub namespaces: String,
    /// Namespace in which a sample workload is created by dry run, to check that the webhook is
    /// called; nothing is stored.
    #[arg(long, default_value = "default")]
    pub review_in: String,
    /// Image of the helper, as in `serve`, for policies that restrict where images come from.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
}

/// Validated settings of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as of DoctorArgs")]
pub struct DoctorSettings {
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

impl DoctorSettings {
    /// Checks the arguments. Returns every problem with its flag.
    pub fn check(args: &DoctorArgs) -> Result<Self, SettingsError> {
        let mut check = SettingsChecker::default();
        let wait = args.wait.as_deref().map(|text| check.duration("--wait", text, MAX_WAIT));
        let instance = args.instance.as_deref().filter(|text| !text.is_empty());
        let doctor = Self {
            pre: args.pre,
            wait,
            json: args.output == "json",
            namespace: args.namespace.clone(),
            object_name: object_name(instance),
            watch_namespace: args.watch_namespace.clone().filter(|name| !name.is_empty()),
            namespaces: split_list(&args.namespaces),
            review_in: args.review_in.clone(),
            worker_image: args.worker_image.clone(),
        };
        for (flag, name) in [("--namespace", &doctor.namespace), ("--review-in", &doctor.review_in)]
        {
            check.dns_label(flag, name);
        }
        for name in &doctor.namespaces {
            check.dns_label("--namespaces", name);
        }
        check.finish(doctor)
    }
}
