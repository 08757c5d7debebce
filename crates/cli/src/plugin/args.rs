//! Command line of the plugin.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use prewarmer_core::{
    duration,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, MAX_RETRIES, PrewarmTaskSpec,
        PullMethod, PullPolicy, RetrySpec, RetryStrategy, WorkerKind, validate::validate,
    },
};

use super::error::CommandError;
use crate::audit::AuditArgs;

/// Pull container images to nodes before the pods that need them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-prewarm", bin_name = "kubectl prewarm", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 success, 1 failure, 2 usage error, 3 timeout.\n\nThe plugin uses the Kubernetes API only, with your permissions: it requires the custom resources\nPrewarmTask and PrewarmSchedule in the cluster (audit does not), and no access to the REST API of\nPrewarmer."
)]
pub struct PluginCli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: PluginCommand,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct GlobalArgs {
    /// Namespace. Default: the namespace of the kubeconfig's context.
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(super) namespace: Option<String>,
    /// List objects of all namespaces.
    #[arg(
        short = 'A',
        long,
        global = true,
        help_heading = "Global options",
        conflicts_with = "namespace"
    )]
    pub(super) all_namespaces: bool,
    /// Context of the kubeconfig.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(super) context: Option<String>,
    /// Path of the kubeconfig. Default: `KUBECONFIG` or `~/.kube/config`.
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// User to impersonate, as with kubectl.
    #[arg(long = "as", global = true, help_heading = "Global options", value_name = "USER")]
    pub(super) impersonate: Option<String>,
    /// Output format.
    #[arg(short, long, global = true, help_heading = "Global options", value_enum)]
    pub(super) output: Option<OutputFormat>,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Objects as JSON.
    Json,
    /// Objects as YAML.
    Yaml,
    /// Table with more columns.
    Wide,
    /// Kind and name of each object.
    Name,
}

/// Shell of a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// bash, for `kubectl-prewarm`.
    Bash,
    /// zsh, for `kubectl-prewarm`.
    Zsh,
    /// fish, for `kubectl-prewarm`.
    Fish,
    /// `kubectl_complete-prewarm`, with which kubectl's own completion covers `kubectl prewarm`, in
    /// any shell.
    Kubectl,
}

/// Subcommands of `kubectl prewarm`.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Warm images, or the images of a workload, now.
    Run(Box<RunArgs>),
    /// List tasks, newest first.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show tasks: images, progress, failures.
    Get(NamesArgs),
    /// Follow tasks until they end.
    Watch(WatchArgs),
    /// Cancel tasks: their workers are deleted.
    Cancel(NamesArgs),
    /// Create new tasks for the nodes that ended tasks have not warmed.
    Retry(RetryArgs),
    /// Explain why nodes failed, why a task waits, or why a workload is not warmed, and what to do.
    Explain(ExplainArgs),
    /// Show on which nodes images are warm, from kubelets and tasks.
    Nodes(NodesArgs),
    /// Show how long containers waited for images, and what an installation of Prewarmer would have
    /// spared.
    Audit(AuditArgs),
    /// Manage schedules, which create tasks at given times.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Print a completion script.
    Completion {
        /// Shell of the script.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page.
    #[command(hide = true)]
    Man,
    /// Answer completion requests of kubectl.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        /// Words of the command line so far; the last one is incomplete.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Names of tasks or schedules.
#[derive(Debug, Args)]
pub(super) struct NamesArgs {
    /// Names of the objects.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
}

/// Filters of `ls`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// List only objects with these labels, such as `prewarm.io/origin=admission`.
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
    /// List only tasks in this phase, such as `Running`.
    #[arg(long, value_parser = ["Pending", "Snapshotting", "Running", "Finalizing", "Completed", "Failed", "Cancelled"], ignore_case = true)]
    pub(super) phase: Option<String>,
}

/// Options to wait for the end of tasks.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Wait until the tasks end. Exit code 0: completed, 1: failed or cancelled.
    #[arg(short, long)]
    pub(super) wait: bool,
    /// Longest time to wait, such as `15m`; then exit code 3. The tasks continue.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(super) wait_timeout: Option<Duration>,
}

impl WaitArgs {
    pub(super) fn is_requested(&self) -> bool {
        self.wait || self.wait_timeout.is_some()
    }
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Names of the tasks.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Longest time to watch, such as `15m`; then exit code 3.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(super) wait_timeout: Option<Duration>,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// Names of ended tasks.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Name of a task, or a workload as `KIND/NAME`, such as `job/report`. About a workload it states
    /// what the server decides by its default settings.
    #[arg(value_name = "NAME|KIND/NAME")]
    pub(super) name: String,
    /// Explain only this node of the task.
    #[arg(long)]
    pub(super) node: Option<String>,
}

/// Arguments of `nodes`.
#[derive(Debug, Args)]
pub(super) struct NodesArgs {
    /// Images to look up on each node. Without images: the nodes and their properties.
    #[arg(value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    /// Show only nodes with these labels.
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
    /// Show only nodes on which one of the images is cold or unknown.
    #[arg(long, requires = "images")]
    pub(super) cold: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Images, or workloads: deploy/NAME, sts/NAME, ds/NAME, cronjob/NAME, job/NAME, rs/NAME,
    /// pod/NAME.
    #[arg(value_name = "IMAGE|KIND/NAME", required_unless_present = "filename")]
    pub(super) what: Vec<String>,
    /// Files or directories with manifests, YAML or JSON; `-` for standard input. Can be repeated,
    /// or contain several names separated by commas.
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    pub(super) filename: Vec<String>,
    /// Read subdirectories too.
    #[arg(short = 'R', long, requires = "filename")]
    pub(super) recursive: bool,
    /// Name of the task, if only one is created.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Print the tasks as YAML without creating them.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// Subcommands of `schedule`.
#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// List schedules.
    #[command(visible_alias = "list")]
    Ls(ScheduleListArgs),
    /// Create a schedule.
    Create(Box<ScheduleArgs>),
    /// Run a schedule now, enabled or not.
    Trigger(TriggerArgs),
    /// Enable schedules.
    Enable(NamesArgs),
    /// Disable schedules.
    Disable(NamesArgs),
    /// Delete schedules and the tasks that they created.
    Delete(NamesArgs),
    /// Show the latest executions of a schedule.
    History(NameArgs),
}

/// Filters of `schedule ls`.
#[derive(Debug, Args)]
pub(super) struct ScheduleListArgs {
    /// Names of schedules; all by default.
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// List only schedules with these labels.
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
}

/// Name of one schedule.
#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// Name of the schedule.
    pub(super) name: String,
}

/// Arguments of `schedule trigger`.
#[derive(Debug, Args)]
pub(super) struct TriggerArgs {
    /// Name of the schedule.
    pub(super) name: String,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// Arguments of `schedule create`.
#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// Name of the schedule.
    pub(super) name: String,
    /// Images to warm.
    #[arg(required = true, value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    /// Cron expression of five fields, or @hourly, @daily, @weekly, @monthly, @yearly.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) cron: String,
    /// Time zone of the cron expression, such as Europe/Berlin. Default: UTC.
    #[arg(long)]
    pub(super) time_zone: Option<String>,
    /// Handling of an execution that is due while an earlier one is still running.
    #[arg(long, value_parser = ["Skip", "Allow", "Queue"], ignore_case = true, default_value = "Skip")]
    pub(super) overlap: String,
    /// Longest time for an execution, such as `1h`; then it is cancelled.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(super) run_timeout: Option<Duration>,
    /// Number of ended executions to keep, 1 to 100.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) history_limit: u32,
    /// Create the schedule disabled.
    #[arg(long)]
    pub(super) disabled: bool,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
}

/// Fields of the task's spec. Unset ones are taken from the workload, or are the defaults.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Labels that a node must have, such as `disk=ssd,zone=a`.
    #[arg(long, value_parser = parse_labels, help_heading = "Task options", value_name = "LABELS")]
    pub(super) node_selector: Option<BTreeMap<String, String>>,
    /// Number of matching nodes to warm: all, auto, a number or a percentage.
    #[arg(long, help_heading = "Task options")]
    pub(super) nodes: Option<String>,
    /// Number of nodes worked on at the same time: 1 to 100, or a percentage. Default: 10.
    #[arg(long, help_heading = "Task options")]
    pub(super) batch_size: Option<String>,
    /// Order in which batches follow one another. Default: Barrier.
    #[arg(long, value_parser = ["Barrier", "Rolling", "Doubling"], ignore_case = true, help_heading = "Task options")]
    pub(super) batch_policy: Option<String>,
    /// Time limit for each node, such as `10m`.
    #[arg(long, help_heading = "Task options", value_name = "DURATION")]
    pub(super) timeout: Option<String>,
    /// Time limit for the task.
    #[arg(long, help_heading = "Task options", value_name = "DURATION")]
    pub(super) deadline: Option<String>,
    /// Priority, 1 to 10; higher values start first.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10), help_heading = "Task options")]
    pub(super) priority: Option<u32>,
    /// Number of retries of a failed node, 0 to 5.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_RETRIES)), help_heading = "Task options")]
    pub(super) retries: Option<u32>,
    /// Share of nodes that must be warm for the task to complete, such as `90%`.
    #[arg(long, help_heading = "Task options", value_name = "PERCENT")]
    pub(super) success_threshold: Option<String>,
    /// Secrets for private registries, separated by commas.
    #[arg(long, value_delimiter = ',', help_heading = "Task options", value_name = "SECRET")]
    pub(super) image_pull_secret: Vec<String>,
    /// Service account whose pull secrets are used.
    #[arg(long, help_heading = "Task options", value_name = "NAME")]
    pub(super) service_account: Option<String>,
    /// Pull tags again that are already present on the node; the same as
    /// `--image-pull-policy=Always`.
    #[arg(long, help_heading = "Task options", conflicts_with = "image_pull_policy")]
    pub(super) always: bool,
    /// Treatment of tags that are already present on the node. Default: `Always` for the tag `latest`
    /// and for images without tag and digest, otherwise `IfNotPresent`; for a workload, that of its
    /// containers.
    #[arg(long, value_parser = ["IfNotPresent", "Always"], ignore_case = true, help_heading = "Task options")]
    pub(super) image_pull_policy: Option<String>,
    /// Kind of the object that pulls on a node.
    #[arg(long, value_parser = ["Job", "Pod"], ignore_case = true, help_heading = "Task options")]
    pub(super) worker: Option<String>,
    /// Method that pulls the images.
    #[arg(long, value_parser = ["Auto", "ImageVolume", "Helper"], ignore_case = true, help_heading = "Task options")]
    pub(super) pull_method: Option<String>,
    /// Time for which finished pods are kept to protect the images from garbage collection, such as
    /// `30m`.
    #[arg(long, help_heading = "Task options", value_name = "DURATION")]
    pub(super) retain: Option<String>,
    /// Time after its end until the task is deleted, such as `1h`.
    #[arg(long, value_parser = duration::parse, help_heading = "Task options", value_name = "DURATION")]
    pub(super) ttl: Option<Duration>,
}

/// Item of a list of labels that is not `KEY=VALUE`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?}: expected KEY=VALUE")]
struct LabelError(String);

fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, LabelError> {
    let pair = |item: &str| {
        let (key, value) = item.split_once('=').ok_or_else(|| LabelError(item.to_owned()))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    prewarmer_core::comma_separated(text).map(pair).collect()
}

fn parse_amount(text: &str) -> Amount {
    text.parse().map_or_else(|_| Amount::Text(text.to_owned()), Amount::Count)
}

/// Parses one of the names of an enum, ignoring case; clap has validated it.
fn parse_enum<T: serde::de::DeserializeOwned>(word: &str, all: &[&str]) -> Option<T> {
    let exact = all.iter().find(|one| one.eq_ignore_ascii_case(word))?;
    serde_json::from_value(serde_json::Value::String((*exact).to_owned())).ok()
}

/// Parses the value of `--overlap`.
pub(super) fn parse_overlap(text: &str) -> prewarmer_core::schedule::OverlapPolicy {
    parse_enum(text, &["Skip", "Allow", "Queue"]).unwrap_or_default()
}

impl SpecArgs {
    /// Reports whether an option sets the pull policy.
    pub(super) fn sets_pull_policy(&self) -> bool {
        self.always || self.image_pull_policy.is_some()
    }

    /// Overrides `spec` with the given options and validates the result. The error lists every
    /// problem.
    pub(super) fn apply_to(&self, spec: PrewarmTaskSpec) -> Result<PrewarmTaskSpec, CommandError> {
        let mut spec = spec;
        let set = |slot: &mut String, value: &Option<String>| {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        };
        set(&mut spec.timeout, &self.timeout);
        set(&mut spec.success_threshold, &self.success_threshold);
        spec.node_selector = self.node_selector.clone().or(spec.node_selector);
        spec.nodes = self.nodes.as_deref().map_or(spec.nodes, parse_amount);
        spec.batch_size = self.batch_size.as_deref().map_or(spec.batch_size, parse_amount);
        let policy =
            |text: &String| parse_enum::<BatchPolicy>(text, &["Barrier", "Rolling", "Doubling"]);
        spec.batch_policy =
            self.batch_policy.as_ref().and_then(policy).unwrap_or(spec.batch_policy);
        spec.deadline = self.deadline.clone().or(spec.deadline);
        spec.priority = self.priority.unwrap_or(spec.priority);
        if let Some(limit) = self.retries.filter(|limit| *limit > 0) {
            spec.failure_policy = Some(FailurePolicy::Retry);
            spec.retry = Some(RetrySpec { limit, strategy: RetryStrategy::default(), delay: None });
        }
        if !self.image_pull_secret.is_empty() {
            let secrets =
                self.image_pull_secret.iter().map(|name| LocalReference { name: name.clone() });
            spec.image_pull_secrets = Some(secrets.collect());
        }
        spec.service_account_name = self.service_account.clone().or(spec.service_account_name);
        let pull_policy =
            |text: &String| parse_enum::<PullPolicy>(text, &["IfNotPresent", "Always"]);
        let always = self.always.then_some(PullPolicy::Always);
        spec.image_pull_policy = always
            .or_else(|| self.image_pull_policy.as_ref().and_then(pull_policy))
            .or(spec.image_pull_policy);
        let worker = |text: &String| parse_enum::<WorkerKind>(text, &["Job", "Pod"]);
        spec.worker = self.worker.as_ref().and_then(worker).unwrap_or(spec.worker);
        let method =
            |text: &String| parse_enum::<PullMethod>(text, &["Auto", "ImageVolume", "Helper"]);
        spec.pull_method = self.pull_method.as_ref().and_then(method).unwrap_or(spec.pull_method);
        spec.retain = self.retain.clone().or(spec.retain);
        let ttl = self.ttl.and_then(|ttl| u32::try_from(ttl.as_secs()).ok());
        spec.ttl_seconds_after_finished = ttl.or(spec.ttl_seconds_after_finished);
        match validate(&spec) {
            Ok(_) => Ok(spec),
            Err(problems) => {
                let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(CommandError::Usage(all.join("; ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn spec(words: &[&str]) -> Result<PrewarmTaskSpec, CommandError> {
        let cli =
            PluginCli::try_parse_from(["kubectl-prewarm", "run", "nginx:1"].iter().chain(words))
                .unwrap();
        let PluginCommand::Run(args) = cli.command else { panic!("{cli:?}") };
        args.spec.apply_to(PrewarmTaskSpec::new(vec!["nginx:1".into()]))
    }

    #[test]
    fn clap_definition_is_valid() {
        PluginCli::command().debug_assert();
    }

    #[test]
    fn options_set_the_task_spec() {
        let words = "--node-selector disk=ssd,zone=a --nodes 25% --batch-size 5 --batch-policy doubling --timeout 1m --deadline 1h \
                     --priority 9 --retries 2 --success-threshold 50% --image-pull-secret a,b --service-account s --always \
                     --worker pod --pull-method helper --retain 5m --ttl 1h";
        let spec = spec(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!((spec.nodes, spec.batch_size), (Amount::Text("25%".into()), Amount::Count(5)));
        assert_eq!(
            (spec.batch_policy, spec.worker, spec.pull_method),
            (BatchPolicy::Doubling, WorkerKind::Pod, PullMethod::Helper)
        );
        assert_eq!(
            (spec.timeout.as_str(), spec.deadline.as_deref(), spec.priority),
            ("1m", Some("1h"), 9)
        );
        assert_eq!(spec.failure_policy, Some(FailurePolicy::Retry));
        assert_eq!(spec.retry.unwrap().limit, 2);
        assert_eq!(
            (spec.image_pull_policy, spec.ttl_seconds_after_finished),
            (Some(PullPolicy::Always), Some(3600))
        );
        assert_eq!(spec.image_pull_secrets.unwrap().len(), 2);
        assert_eq!(spec.node_selector.unwrap()["zone"], "a");
    }

    #[test]
    fn pull_policy_is_that_of_the_tags_unless_it_is_given() {
        assert_eq!(spec(&[]).unwrap().image_pull_policy, None);
        let given = spec(&["--image-pull-policy", "ifnotpresent"]).unwrap();
        assert_eq!(given.image_pull_policy, Some(PullPolicy::IfNotPresent));
        let contradiction =
            ["kubectl-prewarm", "run", "a", "--always", "--image-pull-policy=Always"];
        assert!(PluginCli::try_parse_from(contradiction).is_err());
    }

    #[test]
    fn every_invalid_option_is_reported() {
        let failure =
            spec(&["--batch-size", "0", "--timeout", "soon", "--nodes", "some"]).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        for field in ["spec.batchSize", "spec.timeout", "spec.nodes"] {
            assert!(failure.message().contains(field), "{}", failure.message());
        }
        assert!(PluginCli::try_parse_from(["kubectl-prewarm", "run"]).is_err());
        assert!(
            PluginCli::try_parse_from(["kubectl-prewarm", "run", "a", "--node-selector", "x"])
                .is_err()
        );
    }
}
