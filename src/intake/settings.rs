//! Settings of intake.

use std::time::Duration;

use clap::Args;
use prewarmer_core::{intake::RateLimits, settings::SettingsChecker};

/// Longest coalesce window. With a longer one, workloads would again wait for their images.
const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Longest `retain` of tasks created by admission.
const MAX_RETAIN: Duration = Duration::from_secs(3600);
/// Highest rate per second that a setting may allow: more than an API server can serve.
const MAX_RATE: u32 = 10_000;

/// Settings of intake, unparsed.
#[derive(Debug, Args, Clone)]
pub struct IntakeArgs {
    /// Time for which hints from admission are collected into one task, up to 60s.
    #[arg(long, env = "COALESCE_WINDOW", default_value = "1s")]
    pub coalesce_window: String,
    /// Objects per second that are looked up because an admission review named them, over all
    /// namespaces, 1 to 10,000; the burst is ten times as large. Further lookups wait; workloads
    /// whose lookup waits too long are found by the workload watch.
    #[arg(long, env = "LOOKUP_RATE", default_value = "100")]
    pub lookup_rate: String,
    /// Lookups per second in each namespace, 1 to 10,000; otherwise as `--lookup-rate`.
    #[arg(long, env = "NAMESPACE_LOOKUP_RATE", default_value = "50")]
    pub namespace_lookup_rate: String,
    /// Tasks per second that admission creates, over all namespaces, 1 to 10,000; the burst is ten
    /// times as large.
    #[arg(long, env = "CREATION_RATE", default_value = "50")]
    pub creation_rate: String,
    /// Tasks per second that admission creates in each namespace, 1 to 10,000; otherwise as
    /// `--creation-rate`.
    #[arg(long, env = "NAMESPACE_CREATION_RATE", default_value = "5")]
    pub namespace_creation_rate: String,
    /// Seconds after its end until a task created by admission is deleted.
    #[arg(long, env = "ADMISSION_TASK_TTL_SECONDS", default_value = "3600")]
    pub admission_task_ttl_seconds: String,
}

/// Settings of intake.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// Time for which hints are collected before they are coalesced.
    pub coalesce_window: Duration,
    /// Seconds from the end of a task created by admission to its deletion.
    pub task_ttl: u32,
    /// Time for which finished workers are retained, so that the kubelet keeps their images.
    pub retain: Duration,
    /// Rate limits of object lookups.
    pub lookup_limits: RateLimits,
    /// Rate limits of task creations and of marking tasks as obsolete.
    pub creation_limits: RateLimits,
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            coalesce_window: Duration::from_secs(1),
            task_ttl: 3600,
            retain: Duration::ZERO,
            lookup_limits: RateLimits { total: 100, namespace: 50 },
            creation_limits: RateLimits { total: 50, namespace: 5 },
        }
    }
}

impl IntakeArgs {
    /// Checks the settings and `--admission-retain`, and adds every problem to `check`.
    pub(crate) fn check(
        &self,
        admission_retain: &str,
        check: &mut SettingsChecker,
    ) -> IntakeSettings {
        IntakeSettings {
            coalesce_window: check.duration(
                "--coalesce-window (COALESCE_WINDOW)",
                &self.coalesce_window,
                MAX_WINDOW,
            ),
            lookup_limits: rates(
                check,
                ["LOOKUP_RATE", "NAMESPACE_LOOKUP_RATE"],
                [&self.lookup_rate, &self.namespace_lookup_rate],
            ),
            creation_limits: rates(
                check,
                ["CREATION_RATE", "NAMESPACE_CREATION_RATE"],
                [&self.creation_rate, &self.namespace_creation_rate],
            ),
            task_ttl: check.number(
                "--admission-task-ttl-seconds (ADMISSION_TASK_TTL_SECONDS)",
                &self.admission_task_ttl_seconds,
                0,
                i32::MAX.unsigned_abs(),
            ),
            retain: check.duration(
                "--admission-retain (ADMISSION_RETAIN)",
                admission_retain,
                MAX_RETAIN,
            ),
        }
    }
}

/// Reads a total and a per-namespace rate from the settings of these variables.
fn rates(check: &mut SettingsChecker, variables: [&str; 2], values: [&String; 2]) -> RateLimits {
    let mut read = |variable: &str, value: &str| {
        let flag = variable.to_ascii_lowercase().replace('_', "-");
        check.number(&format!("--{flag} ({variable})"), value, 1, MAX_RATE)
    };
    RateLimits { total: read(variables[0], values[0]), namespace: read(variables[1], values[1]) }
}
