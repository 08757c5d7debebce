//! Settings of intake.

use std::time::Duration;

use clap::Args;
use prewarmer_cli::settings::{duration, number};
use prewarmer_core::{
    intake::RateLimits,
    settings::{Number, Setting, SettingsChecker, Span},
};

/// Longest coalesce window. With a longer one, workloads would again wait for their images.
const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Longest `retain` of tasks created by admission.
const MAX_RETAIN: Duration = Duration::from_secs(3600);
/// Highest rate per second that a setting may allow: more than an API server can serve.
const MAX_RATE: u32 = 10_000;
/// Highest value of `--admission-task-ttl-seconds`: the field of a task is an `int32`.
const MAX_TASK_TTL_SECONDS: u32 = i32::MAX.unsigned_abs();

/// Settings of intake, unparsed.
#[derive(Debug, Args, Clone)]
pub struct IntakeArgs {
    /// Time for which hints from admission are collected into one task, up to 60s.
    #[arg(
        long, env = "COALESCE_WINDOW", default_value = "1s",
        value_parser = duration(Span::up_to(MAX_WINDOW))
    )]
    pub coalesce_window: Setting<Span>,
    /// Objects per second that are looked up because an admission review named them, over all
    /// namespaces, 1 to 10,000; the burst is ten times as large. Further lookups wait; workloads
    /// whose lookup waits too long are found by the workload watch.
    #[arg(long, env = "LOOKUP_RATE", default_value = "100", value_parser = number(1..=MAX_RATE))]
    pub lookup_rate: Setting<Number>,
    /// Lookups per second in each namespace, 1 to 10,000; otherwise as `--lookup-rate`.
    #[arg(
        long, env = "NAMESPACE_LOOKUP_RATE", default_value = "50",
        value_parser = number(1..=MAX_RATE)
    )]
    pub namespace_lookup_rate: Setting<Number>,
    /// Tasks per second that admission creates, over all namespaces, 1 to 10,000; the burst is ten
    /// times as large.
    #[arg(long, env = "CREATION_RATE", default_value = "50", value_parser = number(1..=MAX_RATE))]
    pub creation_rate: Setting<Number>,
    /// Tasks per second that admission creates in each namespace, 1 to 10,000; otherwise as
    /// `--creation-rate`.
    #[arg(
        long, env = "NAMESPACE_CREATION_RATE", default_value = "5",
        value_parser = number(1..=MAX_RATE)
    )]
    pub namespace_creation_rate: Setting<Number>,
    /// Seconds after its end until a task created by admission is deleted, 0 to 2,147,483,647.
    #[arg(
        long, env = "ADMISSION_TASK_TTL_SECONDS", default_value = "3600",
        value_parser = number(0..=MAX_TASK_TTL_SECONDS)
    )]
    pub admission_task_ttl_seconds: Setting<Number>,
    /// `retain` of tasks created by admission, up to 1h: time for which their finished pods protect
    /// the images from the kubelet's garbage collection; `0s` deletes the pods at once.
    #[arg(
        long, env = "ADMISSION_RETAIN", default_value = "10m",
        value_parser = duration(Span::up_to(MAX_RETAIN))
    )]
    pub admission_retain: Setting<Span>,
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
    /// Checks the settings and adds every problem to `check`.
    pub(crate) fn check(&self, check: &mut SettingsChecker) -> IntakeSettings {
        IntakeSettings {
            coalesce_window: check.value(&self.coalesce_window),
            lookup_limits: RateLimits {
                total: check.value(&self.lookup_rate),
                namespace: check.value(&self.namespace_lookup_rate),
            },
            creation_limits: RateLimits {
                total: check.value(&self.creation_rate),
                namespace: check.value(&self.namespace_creation_rate),
            },
            task_ttl: check.value(&self.admission_task_ttl_seconds),
            retain: check.value(&self.admission_retain),
        }
    }
}
