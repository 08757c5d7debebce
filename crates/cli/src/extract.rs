//! `prewarmer extract`: the images that would be warmed for the workloads of a manifest, without a
//! cluster.

use std::fmt::Display;

use clap::{Args, ValueEnum};
use prewarmer_core::{
    settings::{self, Choice, Number, Setting, SettingsChecker, SettingsError, split_list},
    workload::{
        self, DefaultMode, EmptyContext, ExtractError, Extracted, OneShotMode, PolicySettings,
        WorkloadKind, WorkloadKinds,
    },
};

use crate::{
    manifest_files,
    settings::{choice, number},
    terminal::{TableCell, printable, table},
};

/// Names of the modes.
const MODES: &[(&str, DefaultMode)] =
    &[("OptOut", DefaultMode::OptOut), ("OptIn", DefaultMode::OptIn)];
/// Names of the treatments of one-shot pods and Jobs.
const ONE_SHOT_MODES: &[(&str, OneShotMode)] =
    &[("Skip", OneShotMode::Skip), ("Warm", OneShotMode::Warm)];
/// Highest value of `--auto-nodes`.
const MAX_AUTO_NODES: u32 = 100_000;

/// Settings that select the workloads to warm, unparsed.
#[derive(Debug, Args, Clone)]
pub struct PolicyArgs {
    /// Treatment of workloads without the annotation `prewarm.io/enabled`. `OptOut`: all workloads
    /// except opted-out ones are warmed. `OptIn`: only opted-in workloads are warmed.
    #[arg(long, env = "DEFAULT_MODE", default_value = "OptOut", value_parser = choice(MODES))]
    pub default_mode: Setting<Choice<DefaultMode>>,
    /// Treatment, with `--default-mode=OptOut`, of pods and Jobs that run once and do not opt in:
    /// pods without a controller, Jobs whose pods all start at once, pods and Jobs with `nodeName`,
    /// and those of controllers of unknown kinds with images that do not recur. `Skip`: they create
    /// no task. `Warm`: they are warmed as other workloads.
    #[arg(long, env = "ONE_SHOT", default_value = "Skip", value_parser = choice(ONE_SHOT_MODES))]
    pub one_shot: Setting<Choice<OneShotMode>>,
    /// Further kinds with pod templates, separated by commas: `GROUP/VERSION/KIND[/PLURAL]=PATH`,
    /// such as `argoproj.io/v1alpha1/Rollout=spec.template`. `[*]` in the path matches every item
    /// of a list, and `+` separates up to 10 paths of one kind.
    #[arg(long, env = "KINDS", default_value = "")]
    pub kinds: String,
    /// System namespaces whose workloads are warmed too, separated by commas.
    #[arg(long, env = "INCLUDE_NAMESPACES", default_value = "")]
    pub include_namespaces: String,
    /// Lower bound of the number of nodes that `nodes: auto` selects, 1 to 100,000.
    #[arg(
        long, env = "AUTO_NODES", default_value = "100",
        value_parser = number(1..=MAX_AUTO_NODES)
    )]
    pub auto_nodes: Setting<Number>,
}

impl PolicyArgs {
    /// Checks the settings and adds every problem to `check`.
    pub fn check(&self, check: &mut SettingsChecker) -> PolicySettings {
        PolicySettings {
            default_mode: check.value(&self.default_mode),
            one_shot: check.value(&self.one_shot),
            kinds: kinds(check, &self.kinds),
            include_namespaces: split_list(&self.include_namespaces),
            auto_nodes: check.value(&self.auto_nodes),
        }
    }
}

fn kinds(check: &mut SettingsChecker, value: &str) -> WorkloadKinds {
    let setting = "--kinds (KINDS)";
    let mut kinds: Vec<WorkloadKind> = Vec::new();
    for text in split_list(value) {
        match WorkloadKind::parse(&text) {
            Ok(kind)
                if kinds
                    .iter()
                    .any(|known| known.kind == kind.kind && known.group == kind.group) =>
            {
                check.problem(
                    setting,
                    &text,
                    "kind is listed twice; several paths of one kind are separated by +",
                );
            }
            Ok(kind) => kinds.push(kind),
            Err(expected) => check.problem(setting, &text, &expected),
        }
    }
    WorkloadKinds::with_custom(kinds)
}

/// Output format of `extract`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExtractFormat {
    /// JSON, a list of workloads.
    Json,
    /// YAML, a list of workloads.
    Yaml,
    /// Table, one line for each workload.
    Table,
}

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Settings that select the workloads to warm.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Files or directories with manifests, YAML or JSON; `-` for standard input. Can be repeated,
    /// or contain several names separated by commas.
    #[arg(short, long, alias = "filename", required = true, value_delimiter = ',')]
    pub file: Vec<String>,
    /// Read subdirectories too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Namespace of objects without one.
    #[arg(short, long, default_value = workload::DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Output format.
    #[arg(short, long, value_enum, default_value = "json")]
    pub output: ExtractFormat,
}

/// Failure of `extract`.
#[derive(Debug, thiserror::Error)]
pub enum ExtractFailure {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(SettingsError),
    /// A limit on the whole manifest is exceeded.
    #[error(transparent)]
    Limit(ExtractError),
    /// The result cannot be serialized; contains the error.
    #[error("cannot serialize the output: {0}")]
    Output(String),
}

/// Result of `extract`.
#[derive(Debug)]
pub struct ExtractOutput {
    /// Images of the workloads, in the output format.
    pub text: String,
    /// Lines about objects that are not workloads, and warnings.
    pub notes: Vec<String>,
    /// Lines about files and documents that cannot be read; empty on success.
    pub errors: Vec<String>,
}

/// Returns the images of the workloads in manifests. What cannot be read is part of the result, and
/// does not affect the rest.
pub fn extract(args: &ExtractArgs) -> Result<ExtractOutput, ExtractFailure> {
    let mut check = SettingsChecker::default();
    let policy = args.policy.check(&mut check);
    check.dns_label("--namespace", &args.namespace);
    let policy = check.finish(policy).map_err(ExtractFailure::Settings)?;
    let policy = policy.into_policy(settings::DEFAULT_NAMESPACE, None);
    let (manifest, failed) = manifest_files::read(&args.file, args.recursive, &policy.kinds);
    let empty = manifest.is_empty() && failed.is_empty();
    let found = manifest.extract(&policy, &EmptyContext, &args.namespace);
    let found = found.map_err(ExtractFailure::Limit)?;
    let text = match args.output {
        ExtractFormat::Json => serde_json::to_string_pretty(&found.workloads)
            .map(|text| text + "\n")
            .map_err(output)?,
        ExtractFormat::Yaml => serde_saphyr::to_string(&found.workloads).map_err(output)?,
        ExtractFormat::Table => table_of(&found.workloads),
    };
    let skipped = found.skipped.iter().map(|title| format!("{title}: not a workload, skipped"));
    let warnings = found.warnings.iter().map(|warning| format!("warning: {warning}"));
    let errors = failed.iter().map(ToString::to_string);
    let errors = errors.chain(found.errors.iter().map(ToString::to_string));
    let empty = empty.then(|| "warning: the manifest contains no object".to_owned());
    Ok(ExtractOutput {
        text,
        notes: skipped.chain(warnings).chain(empty).map(|line| printable(&line)).collect(),
        errors: errors.map(|line| printable(&line)).collect(),
    })
}

fn output(error: impl Display) -> ExtractFailure {
    ExtractFailure::Output(error.to_string())
}

/// Formats workloads as a table. Warnings and placement are in the other formats only.
fn table_of(workloads: &[Extracted]) -> String {
    let row = |one: &Extracted| {
        let nodes = one.nodes.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let images = match (one.images.as_slice(), one.reason) {
            ([], Some(reason)) => reason.to_owned(),
            ([], None) if !one.never_pulled.is_empty() => {
                format!("imagePullPolicy Never: {}", one.never_pulled.join(","))
            }
            ([], None) => "-".to_owned(),
            (images, _) => images.join(","),
        };
        let cells = [one.namespace.as_str(), &one.workload, one.verdict, &nodes, &images];
        cells.map(TableCell::from).to_vec()
    };
    let titles = ["NAMESPACE", "WORKLOAD", "VERDICT", "NODES", "IMAGES"];
    table(&titles, workloads.iter().map(row).collect(), false)
}
