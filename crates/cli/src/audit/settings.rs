//! Arguments of `audit`.

use clap::Args;
use prewarmer_core::{audit::SimulationSettings, dns};

use super::error::AuditError;

/// Arguments that `prewarmer audit` and `kubectl prewarm audit` have in common.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Largest number of workloads, and of images, in the report, 1 to 1,000.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// Simulate that Pods without a controller and Jobs without a `CronJob` create tasks, too.
    #[arg(long)]
    pub warm_one_shots: bool,
}

/// Arguments of `prewarmer audit`.
#[derive(Debug, Clone, Args)]
pub struct AuditCommandArgs {
    /// Arguments of the report.
    #[command(flatten)]
    pub audit: AuditArgs,
    /// Only namespace to read. Default: all namespaces.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Output format: `json` or `text`.
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// Validated options of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOptions {
    /// Only namespace to read; none for all namespaces.
    pub(super) namespace: Option<String>,
    /// Largest number of rows.
    pub(super) limit: usize,
    /// Settings of the simulation.
    pub(super) simulation: SimulationSettings,
}

impl AuditCommandArgs {
    /// Checks the arguments.
    pub(super) fn options(&self) -> Result<AuditOptions, AuditError> {
        AuditOptions::new(&self.audit, self.namespace.clone())
    }

    /// Reports whether the output is JSON.
    pub(super) fn json(&self) -> bool {
        self.output == "json"
    }
}

impl AuditOptions {
    /// Checks the arguments and the namespace.
    pub fn new(args: &AuditArgs, namespace: Option<String>) -> Result<Self, AuditError> {
        if let Some(name) = namespace.as_deref().filter(|name| !dns::is_label(name)) {
            return Err(AuditError::Namespace(name.to_owned()));
        }
        let simulation = SimulationSettings {
            warm_one_shots: args.warm_one_shots,
            ..SimulationSettings::default()
        };
        Ok(Self { namespace, limit: args.limit.into(), simulation })
    }
}
