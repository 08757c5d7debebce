//! `prewarmer extract`: the images that would be warmed for the workloads of a manifest, without a
//! cluster.

use std::{fmt::Display, io::Read};

use clap::Args;
use prewarmer_core::{
    settings::{self, Choice, Number, Setting, SettingsChecker, SettingsError, split_list},
    workload::{self, DefaultMode, PolicySettings, WorkloadKind, WorkloadKinds, extract_documents},
};

use crate::settings::{choice, number};

/// Names of the modes.
const MODES: &[(&str, DefaultMode)] =
    &[("OptOut", DefaultMode::OptOut), ("OptIn", DefaultMode::OptIn)];
/// Highest value of `--auto-nodes`.
const MAX_AUTO_NODES: u32 = 100_000;

/// Settings that select the workloads to warm, unparsed.
#[derive(Debug, Args, Clone)]
pub struct PolicyArgs {
    /// Treatment of workloads without the annotation `prewarm.io/enabled`. `OptOut`: all workloads
    /// except opted-out ones are warmed. `OptIn`: only opted-in workloads are warmed.
    #[arg(long, env = "DEFAULT_MODE", default_value = "OptOut", value_parser = choice(MODES))]
    pub default_mode: Setting<Choice<DefaultMode>>,
    /// Further kinds with a pod template, separated by commas: `GROUP/VERSION/KIND[/PLURAL]=PATH`,
    /// such as `argoproj.io/v1alpha1/Rollout=spec.template`. `[*]` in the path matches every item
    /// of a list.
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
                check.problem(setting, &text, "kind is listed twice");
            }
            Ok(kind) => kinds.push(kind),
            Err(expected) => check.problem(setting, &text, &expected),
        }
    }
    WorkloadKinds::with_custom(kinds)
}

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Settings that select the workloads to warm.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Manifest, YAML or JSON; `-` for standard input.
    #[arg(short, long)]
    pub file: String,
}

/// Failure of `extract`.
#[derive(Debug, thiserror::Error)]
pub enum ExtractFailure {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(SettingsError),
    /// The manifest cannot be read or evaluated; contains its name and the error.
    #[error("{0}: {1}")]
    Manifest(String, String),
}

/// Returns the images of the workloads in a manifest, as JSON. Prints the titles of other objects
/// to standard error.
pub fn extract(args: &ExtractArgs) -> Result<String, ExtractFailure> {
    let mut check = SettingsChecker::default();
    let policy = args.policy.check(&mut check);
    let policy = check.finish(policy).map_err(ExtractFailure::Settings)?;
    let source = if args.file == "-" { "standard input" } else { &args.file };
    let failed = |error: &dyn Display| ExtractFailure::Manifest(source.into(), error.to_string());
    let mut text = String::new();
    if args.file == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(|error| failed(&error))?;
    } else {
        text = std::fs::read_to_string(&args.file).map_err(|error| failed(&error))?;
    }
    let policy = policy.into_policy(settings::DEFAULT_NAMESPACE, None);
    let (found, skipped) = extract_documents(&text, &policy, workload::DEFAULT_NAMESPACE)
        .map_err(|error| failed(&error))?;
    for title in skipped {
        eprintln!("{title}: not a workload, skipped");
    }
    let images = serde_json::to_string_pretty(&found).map_err(|error| failed(&error))?;
    Ok(images + "\n")
}
