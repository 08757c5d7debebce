//! Settings that isolate tenants: shares of capacity, deadlines and upper bounds of tasks.

use std::{sync::Arc, time::Duration};

use clap::Args;
use prewarmer_cli::settings::{boolean, duration, number, text};
use prewarmer_core::{
    controller::FairnessLimits,
    settings::{Choice, Number, Setting, SettingsChecker, Span, Text, split_list},
    task::caps::{AdmissionCaps, Caps, RegistryRules, TolerationFilter},
};

/// Highest number of concurrent tasks.
pub(super) const MAX_TASKS: u32 = 1000;
/// Highest number of images of a task, and of a worker.
pub(super) const MAX_IMAGES: u32 = 100;
/// Highest number of concurrent workers.
pub(super) const MAX_WORKERS: u32 = 10_000;
/// Longest timeout, `retain` and deadline that a setting may allow: a week.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest `timeout` of a task under any settings.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Highest value of `--max-nodes-per-task`.
const MAX_NODES: u32 = 1_000_000;
/// Highest value of `--registry-failure-threshold`.
const MAX_FAILURES: u32 = 1000;
/// Highest priority of a task.
const MAX_PRIORITY: u32 = 10;
/// Hosts with an optional path prefix.
const REGISTRIES: Text =
    Text::list(r"(\[[0-9A-Fa-f:.]+\]|[^\s,/*@?:\[\]]+)(:[0-9]+)?(/[^\s,*@?]*)?");
/// Longest value of `--node-yield-after`.
const MAX_NODE_YIELD: Duration = Duration::from_secs(3600);

/// Limits for tasks and namespaces, unparsed.
#[derive(Debug, Args, Clone)]
pub struct LimitArgs {
    /// Concurrent tasks of one namespace, 0 to 1,000; `0`: as many as `--max-concurrent-tasks`. A
    /// namespace without a running task may start one task above `--max-concurrent-tasks`.
    #[arg(
        long, env = "MAX_CONCURRENT_TASKS_PER_NAMESPACE", default_value = "0",
        value_parser = number(0..=MAX_TASKS)
    )]
    pub max_concurrent_tasks_per_namespace: Setting<Number>,
    /// Concurrent workers for the tasks of one namespace, 0 to 10,000; `0`: nine tenths of
    /// `--max-workers`.
    #[arg(
        long, env = "MAX_WORKERS_PER_NAMESPACE", default_value = "0",
        value_parser = number(0..=MAX_WORKERS)
    )]
    pub max_workers_per_namespace: Setting<Number>,
    /// Time for which a worker that pulls keeps its node from workers of other tasks, up to 1h. A
    /// worker in image pull back-off does not keep its node.
    #[arg(
        long, env = "NODE_YIELD_AFTER", default_value = "60s",
        value_parser = duration(Span::up_to(MAX_NODE_YIELD))
    )]
    pub node_yield_after: Setting<Span>,
    /// Nodes on which pulls from a registry must fail, without any success, before a task pulls
    /// from it on at most two nodes at once, 1 to 1,000.
    #[arg(
        long, env = "REGISTRY_FAILURE_THRESHOLD", default_value = "3",
        value_parser = number(1..=MAX_FAILURES)
    )]
    pub registry_failure_threshold: Setting<Number>,
    /// `deadline` of tasks that do not set one, up to 168h.
    #[arg(
        long, env = "DEFAULT_DEADLINE", default_value = "2h",
        value_parser = duration(Span::positive(MAX_DURATION))
    )]
    pub default_deadline: Setting<Span>,
    /// Longest `deadline` of a task, up to 168h. A longer one is reduced.
    #[arg(
        long, env = "MAX_DEADLINE", default_value = "24h",
        value_parser = duration(Span::positive(MAX_DURATION))
    )]
    pub max_deadline: Setting<Span>,
    /// Longest `timeout` of a task, up to 24h. A longer one is reduced.
    #[arg(
        long, env = "MAX_TIMEOUT", default_value = "24h",
        value_parser = duration(Span::positive(MAX_TIMEOUT))
    )]
    pub max_timeout: Setting<Span>,
    /// Longest `retain` of a task, up to 24h. A longer one is reduced.
    #[arg(
        long, env = "MAX_RETAIN", default_value = "24h",
        value_parser = duration(Span::up_to(MAX_TIMEOUT))
    )]
    pub max_retain: Setting<Span>,
    /// Highest effective `priority` of a task, 1 to 10.
    #[arg(
        long, env = "MAX_PRIORITY", default_value = "10",
        value_parser = number(1..=MAX_PRIORITY)
    )]
    pub max_priority: Setting<Number>,
    /// Largest number of nodes of a task, 0 to 1,000,000; `0`: unlimited.
    #[arg(
        long, env = "MAX_NODES_PER_TASK", default_value = "0",
        value_parser = number(0..=MAX_NODES)
    )]
    pub max_nodes_per_task: Setting<Number>,
    /// Largest number of images of a task, 1 to 100. Tasks with more are refused.
    #[arg(
        long, env = "MAX_IMAGES_PER_TASK", default_value = "100",
        value_parser = number(1..=MAX_IMAGES)
    )]
    pub max_images_per_task: Setting<Number>,
    /// Registries from which images may be pulled, separated by commas: `HOST[:PORT][/PATH]`, such
    /// as `registry.example.com/team,docker.io/library`. Empty: all registries.
    #[arg(long, env = "ALLOWED_REGISTRIES", default_value = "", value_parser = text(REGISTRIES))]
    pub allowed_registries: Setting<Text>,
    /// Registries from which no images may be pulled, in the same form; takes precedence over
    /// `--allowed-registries`.
    #[arg(long, env = "DENIED_REGISTRIES", default_value = "", value_parser = text(REGISTRIES))]
    pub denied_registries: Setting<Text>,
    /// Tolerations that admission copies from a workload's pods to the task: `keyed` (those with a
    /// key), `*` (all, including those of every taint), or keys separated by commas. The annotation
    /// `prewarm.io/allow-all-nodes: "true"` of the Namespace lifts this limit.
    #[arg(long, env = "ADMISSION_TOLERATIONS", default_value = "keyed")]
    pub admission_tolerations: String,
    /// `true`: the annotation `prewarm.io/nodes` of any workload may request more nodes than `auto`
    /// selects. `false`: only in namespaces whose Namespace has the annotation
    /// `prewarm.io/allow-all-nodes: "true"`.
    #[arg(long, env = "ADMISSION_ALL_NODES", default_value = "false", value_parser = boolean())]
    pub admission_all_nodes: Setting<Choice<bool>>,
}

impl LimitArgs {
    /// Checks the limits and adds every problem to `check`. Limits per namespace that are 0 follow
    /// from the total limits.
    pub(super) fn check(
        &self,
        max_tasks: usize,
        max_workers: usize,
        check: &mut SettingsChecker,
    ) -> FairnessLimits {
        let tasks = check.value(&self.max_concurrent_tasks_per_namespace) as usize;
        let workers = check.value(&self.max_workers_per_namespace) as usize;
        let failures = check.value(&self.registry_failure_threshold) as usize;
        FairnessLimits {
            tasks_per_namespace: if tasks == 0 { max_tasks } else { tasks.min(max_tasks) },
            workers_per_namespace: if workers == 0 {
                nine_tenths(max_workers)
            } else {
                workers.min(max_workers)
            },
            exclusive_node_time: check.value(&self.node_yield_after),
            registry_failure_threshold: failures,
            caps: Arc::new(self.caps(check)),
        }
    }

    fn caps(&self, check: &mut SettingsChecker) -> Caps {
        Caps {
            nodes: check.value(&self.max_nodes_per_task),
            images: check.value(&self.max_images_per_task),
            priority: check.value(&self.max_priority),
            timeout: check.value(&self.max_timeout),
            retain: check.value(&self.max_retain),
            default_deadline: check.value(&self.default_deadline),
            deadline: check.value(&self.max_deadline),
            registries: RegistryRules {
                allowed: registries(check, &self.allowed_registries),
                denied: registries(check, &self.denied_registries),
            },
            admission: AdmissionCaps {
                all_nodes: check.value(&self.admission_all_nodes),
                tolerations: tolerations(&self.admission_tolerations),
            },
        }
    }
}

fn registries(check: &mut SettingsChecker, setting: &Setting<Text>) -> Vec<String> {
    let rules = split_list(&setting.text);
    for rule in &rules {
        let host = rule.split('/').next().unwrap_or_default();
        let odd = |c: char| c.is_whitespace() || matches!(c, '*' | '@' | '?');
        if host.is_empty() || rule.contains("://") || rule.contains(odd) {
            let expected =
                "expected a host and an optional path prefix, such as registry.example.com/team";
            check.problem(&setting.name, rule, expected);
        }
    }
    rules
}

fn tolerations(value: &str) -> TolerationFilter {
    match value.trim() {
        "keyed" => TolerationFilter::Keyed,
        "*" => TolerationFilter::All,
        keys => TolerationFilter::Keys(split_list(keys)),
    }
}

/// Returns nine tenths: 270 of 300 workers; below 10 workers, one less than all, and at least 1.
fn nine_tenths(all: usize) -> usize {
    all.saturating_sub((all / 10).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenth_is_reserved() {
        assert_eq!([1, 2, 9, 10, 300].map(nine_tenths), [1, 1, 8, 9, 270]);
    }

    #[test]
    fn toleration_keywords_are_parsed() {
        assert_eq!(tolerations("keyed"), TolerationFilter::Keyed);
        assert_eq!(tolerations("*"), TolerationFilter::All);
        assert_eq!(
            tolerations("gpu, spot"),
            TolerationFilter::Keys(vec!["gpu".into(), "spot".into()])
        );
        assert_eq!(tolerations(""), TolerationFilter::Keys(Vec::new()));
    }
}
