//! The command line.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::Failure;
use crate::{
    duration,
    task::{
        Amount, BatchPolicy, FailurePolicy, LocalReference, PrewarmTaskSpec, PullMethod, PullPolicy, Retry,
        RetryStrategy, WorkerKind, resource::MAX_RETRIES, validate::validate,
    },
};

/// Pull container images to nodes before the pods that need them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-prewarm", bin_name = "kubectl prewarm", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 timed out.\n\nThe plugin asks the API server alone, with your rights: it needs the kinds PrewarmTask and\nPrewarmSchedule in the cluster, and no access to the REST API."
)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Namespace; that of the kubeconfig's context by default.
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub(super) namespace: Option<String>,
    /// All namespaces, in lists.
    #[arg(short = 'A', long, global = true, help_heading = "Everywhere", conflicts_with = "namespace")]
    pub(super) all_namespaces: bool,
    /// Context of the kubeconfig.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(super) context: Option<String>,
    /// The kubeconfig; `KUBECONFIG` or `~/.kube/config` by default.
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Act as this user, as with kubectl.
    #[arg(long = "as", global = true, help_heading = "Everywhere", value_name = "USER")]
    pub(super) impersonate: Option<String>,
    /// How to print.
    #[arg(short, long, global = true, help_heading = "Everywhere", value_enum)]
    pub(super) output: Option<Format>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The objects, as JSON.
    Json,
    /// The objects, as YAML.
    Yaml,
    /// A table with more columns.
    Wide,
    /// Kind and name.
    Name,
}

/// For which shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// bash, for `kubectl-prewarm`.
    Bash,
    /// zsh, for `kubectl-prewarm`.
    Zsh,
    /// fish, for `kubectl-prewarm`.
    Fish,
    /// `kubectl_complete-prewarm`: by it kubectl's own completion goes on into `kubectl prewarm`, in any shell.
    Kubectl,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Warm images, or those of a workload, now.
    Run(Box<RunArgs>),
    /// List tasks, newest first.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show tasks: images, progress, failures.
    Get(Names),
    /// Follow tasks to their end.
    Watch(WatchArgs),
    /// End tasks: their Jobs are deleted.
    Cancel(Names),
    /// Warm the nodes of ended tasks on which they failed, by new tasks.
    Retry(RetryArgs),
    /// Say why nodes failed, or why a task waits, and what to do.
    Explain(ExplainArgs),
    /// Show what is warm where, as far as kubelets and tasks tell.
    Nodes(NodesArgs),
    /// Tasks at times of day.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Print a completion script.
    Completion {
        /// For which shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page.
    #[command(hide = true)]
    Man,
    /// Answer the completion of kubectl.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        /// The words so far; the last is being typed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Names of objects.
#[derive(Debug, Args)]
pub(super) struct Names {
    /// Names.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
}

/// Which objects to list.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only objects with these labels, such as `prewarm.io/origin=admission`.
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
    /// Only tasks of this phase, such as `Running`.
    #[arg(long, value_parser = ["Pending", "Snapshotting", "Running", "Finalizing", "Completed", "Failed", "Cancelled"], ignore_case = true)]
    pub(super) phase: Option<String>,
}

/// Whether to wait.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Wait for the end: exit code 0 when completed, 1 when failed or cancelled.
    #[arg(short, long)]
    pub(super) wait: bool,
    /// Wait no longer than this, such as `15m`: exit code 3. The task goes on.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(super) wait_timeout: Option<Duration>,
}

impl WaitArgs {
    pub(super) fn waits(&self) -> bool {
        self.wait || self.wait_timeout.is_some()
    }
}

/// What `watch` takes.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Names of tasks.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Watch no longer than this, such as `15m`: exit code 3.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(super) wait_timeout: Option<Duration>,
}

/// What `retry` takes.
#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// Names of ended tasks.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// What `explain` takes.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The task's name.
    pub(super) name: String,
    /// Only this node.
    #[arg(long)]
    pub(super) node: Option<String>,
}

/// What `nodes` takes.
#[derive(Debug, Args)]
pub(super) struct NodesArgs {
    /// Images: whether each node has them. Without any, the nodes and what tasks would find there.
    #[arg(value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    /// Only nodes with these labels.
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
    /// Only nodes that may lack one of the images.
    #[arg(long, requires = "images")]
    pub(super) cold: bool,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Images, or workloads: deploy/NAME, sts/NAME, ds/NAME, cronjob/NAME, job/NAME, rs/NAME, pod/NAME.
    #[arg(value_name = "IMAGE|KIND/NAME", required_unless_present = "filename")]
    pub(super) what: Vec<String>,
    /// Workloads of this manifest, JSON or YAML; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(super) filename: Option<String>,
    /// The task's name, where there is one task.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Print the tasks as YAML, and create nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// List schedules.
    #[command(visible_alias = "list")]
    Ls(ScheduleListArgs),
    /// Make a schedule.
    Create(Box<ScheduleArgs>),
    /// Run a schedule now, enabled or not.
    Trigger(TriggerArgs),
    /// Have schedules run from now on.
    Enable(Names),
    /// Have schedules rest.
    Disable(Names),
    /// Delete schedules, and the tasks that they have made.
    Delete(Names),
    /// Show the last runs of a schedule.
    History(OneName),
}

/// Which schedules to list.
#[derive(Debug, Args)]
pub(super) struct ScheduleListArgs {
    /// Names; all by default.
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Only schedules with these labels.
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
}

/// One name.
#[derive(Debug, Args)]
pub(super) struct OneName {
    /// The schedule's name.
    pub(super) name: String,
}

/// What `schedule trigger` takes.
#[derive(Debug, Args)]
pub(super) struct TriggerArgs {
    /// The schedule's name.
    pub(super) name: String,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// What `schedule create` takes.
#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// The schedule's name.
    pub(super) name: String,
    /// Images.
    #[arg(required = true, value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    /// Five fields of cron, or @hourly, @daily, @weekly, @monthly, @yearly.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) cron: String,
    /// The time zone in which they are meant, such as Europe/Berlin; UTC by default.
    #[arg(long)]
    pub(super) time_zone: Option<String>,
    /// What happens when a run is due while an earlier one is at work.
    #[arg(long, value_parser = ["Skip", "Allow", "Queue"], ignore_case = true, default_value = "Skip")]
    pub(super) overlap: String,
    /// Cancel a run that takes longer than this, such as `1h`.
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub(super) run_timeout: Option<Duration>,
    /// How many runs are remembered.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) history_limit: u32,
    /// Make it disabled.
    #[arg(long)]
    pub(super) disabled: bool,
    #[command(flatten)]
    pub(super) spec: SpecArgs,
}

/// What a task is to be like; what is not said is the workload's, or the default.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Labels that a node must carry, such as `disk=ssd,zone=a`.
    #[arg(long, value_parser = labels, help_heading = "The task", value_name = "LABELS")]
    pub(super) node_selector: Option<BTreeMap<String, String>>,
    /// How many of the matching nodes: all, auto, a number or a percentage.
    #[arg(long, help_heading = "The task")]
    pub(super) nodes: Option<String>,
    /// How many nodes at once: 1 to 100, or a percentage. 10 by default.
    #[arg(long, help_heading = "The task")]
    pub(super) batch_size: Option<String>,
    /// How batches follow one another.
    #[arg(long, value_parser = ["Barrier", "Rolling", "Doubling"], ignore_case = true, help_heading = "The task")]
    pub(super) batch_policy: Option<String>,
    /// How long a node may take, such as `10m`.
    #[arg(long, help_heading = "The task", value_name = "DURATION")]
    pub(super) timeout: Option<String>,
    /// How long the whole task may take.
    #[arg(long, help_heading = "The task", value_name = "DURATION")]
    pub(super) deadline: Option<String>,
    /// 1 to 10; higher goes first.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10), help_heading = "The task")]
    pub(super) priority: Option<u32>,
    /// How many further tries a failed node gets.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_RETRIES)), help_heading = "The task")]
    pub(super) retries: Option<u32>,
    /// The share of nodes that must be warm, such as `90%`.
    #[arg(long, help_heading = "The task", value_name = "PERCENT")]
    pub(super) success_threshold: Option<String>,
    /// Secrets for private registries.
    #[arg(long, value_delimiter = ',', help_heading = "The task", value_name = "SECRET")]
    pub(super) image_pull_secret: Vec<String>,
    /// The service account whose pull secrets count.
    #[arg(long, help_heading = "The task", value_name = "NAME")]
    pub(super) service_account: Option<String>,
    /// Check a tag again that is on the node already.
    #[arg(long, help_heading = "The task")]
    pub(super) always: bool,
    /// What pulls on a node.
    #[arg(long, value_parser = ["Job", "Pod"], ignore_case = true, help_heading = "The task")]
    pub(super) worker: Option<String>,
    /// Which method pulls.
    #[arg(long, value_parser = ["Auto", "ImageVolume", "Helper"], ignore_case = true, help_heading = "The task")]
    pub(super) pull_method: Option<String>,
    /// How long finished pods hold the images, such as `30m`.
    #[arg(long, help_heading = "The task", value_name = "DURATION")]
    pub(super) retain: Option<String>,
    /// Delete the task so long after its end, such as `1h`.
    #[arg(long, value_parser = duration::parse, help_heading = "The task", value_name = "DURATION")]
    pub(super) ttl: Option<Duration>,
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?}: expected KEY=VALUE"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    crate::items(text).map(pair).collect()
}

fn amount(text: &str) -> Amount {
    text.parse().map_or_else(|_| Amount::Text(text.to_owned()), Amount::Count)
}

/// Takes one of the words of an enum; clap has made sure that it is one.
fn word<T: serde::de::DeserializeOwned>(word: &str, all: &[&str]) -> Option<T> {
    let exact = all.iter().find(|one| one.eq_ignore_ascii_case(word))?;
    serde_json::from_value(serde_json::Value::String((*exact).to_owned())).ok()
}

/// The word of `--overlap`.
pub(super) fn overlap(text: &str) -> crate::schedule::OverlapPolicy {
    word(text, &["Skip", "Allow", "Queue"]).unwrap_or_default()
}

impl SpecArgs {
    /// Puts what was said over `spec`, and checks the whole; every mistake is told.
    pub(super) fn over(&self, spec: PrewarmTaskSpec) -> Result<PrewarmTaskSpec, Failure> {
        let mut spec = spec;
        let set = |slot: &mut String, value: &Option<String>| {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        };
        set(&mut spec.timeout, &self.timeout);
        set(&mut spec.success_threshold, &self.success_threshold);
        spec.node_selector = self.node_selector.clone().or(spec.node_selector);
        spec.nodes = self.nodes.as_deref().map_or(spec.nodes, amount);
        spec.batch_size = self.batch_size.as_deref().map_or(spec.batch_size, amount);
        let policy = |text: &String| word::<BatchPolicy>(text, &["Barrier", "Rolling", "Doubling"]);
        spec.batch_policy = self.batch_policy.as_ref().and_then(policy).unwrap_or(spec.batch_policy);
        spec.deadline = self.deadline.clone().or(spec.deadline);
        spec.priority = self.priority.unwrap_or(spec.priority);
        if let Some(limit) = self.retries.filter(|limit| *limit > 0) {
            spec.failure_policy = FailurePolicy::Retry;
            spec.retry = Some(Retry { limit, strategy: RetryStrategy::default(), delay: None });
        }
        if !self.image_pull_secret.is_empty() {
            let secrets = self.image_pull_secret.iter().map(|name| LocalReference { name: name.clone() });
            spec.image_pull_secrets = Some(secrets.collect());
        }
        spec.service_account_name = self.service_account.clone().or(spec.service_account_name);
        if self.always {
            spec.image_pull_policy = PullPolicy::Always;
        }
        let worker = |text: &String| word::<WorkerKind>(text, &["Job", "Pod"]);
        spec.worker = self.worker.as_ref().and_then(worker).unwrap_or(spec.worker);
        let method = |text: &String| word::<PullMethod>(text, &["Auto", "ImageVolume", "Helper"]);
        spec.pull_method = self.pull_method.as_ref().and_then(method).unwrap_or(spec.pull_method);
        spec.retain = self.retain.clone().or(spec.retain);
        let ttl = self.ttl.and_then(|ttl| u32::try_from(ttl.as_secs()).ok());
        spec.ttl_seconds_after_finished = ttl.or(spec.ttl_seconds_after_finished);
        match validate(&spec) {
            Ok(_) => Ok(spec),
            Err(problems) => {
                let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(Failure::Usage(all.join("; ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn spec(words: &[&str]) -> Result<PrewarmTaskSpec, Failure> {
        let cli = Cli::try_parse_from(["kubectl-prewarm", "run", "nginx:1"].iter().chain(words)).unwrap();
        let Command::Run(args) = cli.command else { panic!("{cli:?}") };
        args.spec.over(PrewarmTaskSpec::new(vec!["nginx:1".into()]))
    }

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn all_that_a_task_may_be_like() {
        let words = "--node-selector disk=ssd,zone=a --nodes 25% --batch-size 5 --batch-policy doubling --timeout 1m --deadline 1h \
                     --priority 9 --retries 2 --success-threshold 50% --image-pull-secret a,b --service-account s --always \
                     --worker pod --pull-method helper --retain 5m --ttl 1h";
        let spec = spec(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!((spec.nodes, spec.batch_size), (Amount::Text("25%".into()), Amount::Count(5)));
        assert_eq!(
            (spec.batch_policy, spec.worker, spec.pull_method),
            (BatchPolicy::Doubling, WorkerKind::Pod, PullMethod::Helper)
        );
        assert_eq!((spec.timeout.as_str(), spec.deadline.as_deref(), spec.priority), ("1m", Some("1h"), 9));
        assert_eq!((spec.failure_policy, spec.retry.unwrap().limit), (FailurePolicy::Retry, 2));
        assert_eq!((spec.image_pull_policy, spec.ttl_seconds_after_finished), (PullPolicy::Always, Some(3600)));
        assert_eq!(spec.image_pull_secrets.unwrap().len(), 2);
        assert_eq!(spec.node_selector.unwrap()["zone"], "a");
    }

    #[test]
    fn every_mistake_is_told() {
        let failure = spec(&["--batch-size", "0", "--timeout", "soon", "--nodes", "some"]).unwrap_err();
        assert_eq!(failure.code(), 2);
        for field in ["spec.batchSize", "spec.timeout", "spec.nodes"] {
            assert!(failure.message().contains(field), "{}", failure.message());
        }
        assert!(Cli::try_parse_from(["kubectl-prewarm", "run"]).is_err());
        assert!(Cli::try_parse_from(["kubectl-prewarm", "run", "a", "--node-selector", "x"]).is_err());
    }
}
