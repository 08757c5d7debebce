//! Settings that isolate tenants: shares of capacity, deadlines and upper bounds of tasks.

use std::{sync::Arc, time::Duration};

use clap::Args;
use prewarmer_core::{
    controller::FairnessLimits,
    settings::{SettingsChecker, split_list},
    task::caps::{AdmissionCaps, Caps, RegistryRules, TolerationFilter},
};

/// Longest timeout, `retain` and deadline that a setting may allow: a week.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest `timeout` of a task under any settings.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Highest value of `--max-nodes-per-task`.
const MAX_NODES: u32 = 1_000_000;
/// Longest value of `--node-yield-after`.
const MAX_NODE_YIELD: Duration = Duration::from_secs(3600);

/// Limits for tasks and namespaces, unparsed.
#[derive(Debug, Args, Clone)]
pub struct LimitArgs {
    /// Concurrent tasks of one namespace, 0 to 1,000; `0`: as many as `--max-concurrent-tasks`. A
    /// namespace without a running task may start one task above `--max-concurrent-tasks`.
    #[arg(long, env = "MAX_CONCURRENT_TASKS_PER_NAMESPACE", default_value = "0")]
    pub max_concurrent_tasks_per_namespace: String,
    /// Concurrent workers for the tasks of one namespace, 0 to 10,000; `0`: nine tenths of
    /// `--max-workers`.
    #[arg(long, env = "MAX_WORKERS_PER_NAMESPACE", default_value = "0")]
    pub max_workers_per_namespace: String,
    /// Time for which a worker that pulls keeps its node from workers of other tasks, up to 1h. A
    /// worker in image pull back-off does not keep its node.
    #[arg(long, env = "NODE_YIELD_AFTER", default_value = "60s")]
    pub node_yield_after: String,
    /// Nodes on which pulls from a registry must fail, without any success, before a task pulls
    /// from it on at most two nodes at once, 1 to 1,000.
    #[arg(long, env = "REGISTRY_FAILURE_THRESHOLD", default_value = "3")]
    pub registry_failure_threshold: String,
    /// `deadline` of tasks that do not set one, up to 168h.
    #[arg(long, env = "DEFAULT_DEADLINE", default_value = "2h")]
    pub default_deadline: String,
    /// Longest `deadline` of a task, up to 168h. A longer one is reduced.
    #[arg(long, env = "MAX_DEADLINE", default_value = "24h")]
    pub max_deadline: String,
    /// Longest `timeout` of a task, up to 24h. A longer one is reduced.
    #[arg(long, env = "MAX_TIMEOUT", default_value = "24h")]
    pub max_timeout: String,
    /// Longest `retain` of a task, up to 24h. A longer one is reduced.
    #[arg(long, env = "MAX_RETAIN", default_value = "24h")]
    pub max_retain: String,
    /// Highest effective `priority` of a task, 1 to 10.
    #[arg(long, env = "MAX_PRIORITY", default_value = "10")]
    pub max_priority: String,
    /// Largest number of nodes of a task, 0 to 1,000,000; `0`: unlimited.
    #[arg(long, env = "MAX_NODES_PER_TASK", default_value = "0")]
    pub max_nodes_per_task: String,
    /// Largest number of images of a task, 1 to 100. Tasks with more are refused.
    #[arg(long, env = "MAX_IMAGES_PER_TASK", default_value = "100")]
    pub max_images_per_task: String,
    /// Registries from which images may be pulled, separated by commas: `HOST[:PORT][/PATH]`, such
    /// as `registry.example.com/team,docker.io/library`. Empty: all registries.
    #[arg(long, env = "ALLOWED_REGISTRIES", default_value = "")]
    pub allowed_registries: String,
    /// Registries from which no images may be pulled, in the same form; takes precedence over
    /// `--allowed-registries`.
    #[arg(long, env = "DENIED_REGISTRIES", default_value = "")]
    pub denied_registries: String,
    /// Tolerations that admission copies from a workload's pods to the task: `keyed` (those with a
    /// key), `*` (all, including those of every taint), or keys separated by commas. The annotation
    /// `prewarm.io/allow-all-nodes: "true"` of the Namespace lifts this limit.
    #[arg(long, env = "ADMISSION_TOLERATIONS", default_value = "keyed")]
    pub admission_tolerations: String,
    /// `true`: the annotation `prewarm.io/nodes` of any workload may request more nodes than `auto`
    /// selects. `false`: only in namespaces whose Namespace has the annotation
    /// `prewarm.io/allow-all-nodes: "true"`.
    #[arg(long, env = "ADMISSION_ALL_NODES", default_value = "false")]
    pub admission_all_nodes: String,
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
        let tasks = check.number(
            "--max-concurrent-tasks-per-namespace (MAX_CONCURRENT_TASKS_PER_NAMESPACE)",
            &self.max_concurrent_tasks_per_namespace,
            0,
            1000,
        ) as usize;
        let workers = check.number(
            "--max-workers-per-namespace (MAX_WORKERS_PER_NAMESPACE)",
            &self.max_workers_per_namespace,
            0,
            10_000,
        ) as usize;
        let failures = check.number(
            "--registry-failure-threshold (REGISTRY_FAILURE_THRESHOLD)",
            &self.registry_failure_threshold,
            1,
            1000,
        ) as usize;
        FairnessLimits {
            tasks_per_namespace: if tasks == 0 { max_tasks } else { tasks.min(max_tasks) },
            workers_per_namespace: if workers == 0 {
                nine_tenths(max_workers)
            } else {
                workers.min(max_workers)
            },
            exclusive_node_time: check.duration(
                "--node-yield-after (NODE_YIELD_AFTER)",
                &self.node_yield_after,
                MAX_NODE_YIELD,
            ),
            registry_failure_threshold: failures,
            caps: Arc::new(self.caps(check)),
        }
    }

    fn caps(&self, check: &mut SettingsChecker) -> Caps {
        let mut time = |setting: &str, value: &str, most: Duration| {
            let span = check.duration(setting, value, most);
            if span.is_zero()
                && prewarmer_core::duration::parse(value).is_ok_and(|span| span.is_zero())
            {
                check.problem(setting, value, "expected more than 0s");
            }
            span
        };
        let default_deadline =
            time("--default-deadline (DEFAULT_DEADLINE)", &self.default_deadline, MAX_DURATION);
        let deadline = time("--max-deadline (MAX_DEADLINE)", &self.max_deadline, MAX_DURATION);
        let timeout = time("--max-timeout (MAX_TIMEOUT)", &self.max_timeout, MAX_TIMEOUT);
        let retain = check.duration("--max-retain (MAX_RETAIN)", &self.max_retain, MAX_TIMEOUT);
        Caps {
            nodes: check.number(
                "--max-nodes-per-task (MAX_NODES_PER_TASK)",
                &self.max_nodes_per_task,
                0,
                MAX_NODES,
            ),
            images: check.number(
                "--max-images-per-task (MAX_IMAGES_PER_TASK)",
                &self.max_images_per_task,
                1,
                100,
            ),
            priority: check.number("--max-priority (MAX_PRIORITY)", &self.max_priority, 1, 10),
            timeout,
            retain,
            default_deadline,
            deadline,
            registries: RegistryRules {
                allowed: registries(
                    check,
                    "--allowed-registries (ALLOWED_REGISTRIES)",
                    &self.allowed_registries,
                ),
                denied: registries(
                    check,
                    "--denied-registries (DENIED_REGISTRIES)",
                    &self.denied_registries,
                ),
            },
            admission: AdmissionCaps {
                all_nodes: check.boolean(
                    "--admission-all-nodes (ADMISSION_ALL_NODES)",
                    &self.admission_all_nodes,
                ),
                tolerations: tolerations(&self.admission_tolerations),
            },
        }
    }
}

fn registries(check: &mut SettingsChecker, setting: &str, value: &str) -> Vec<String> {
    let rules = split_list(value);
    for rule in &rules {
        let host = rule.split('/').next().unwrap_or_default();
        let odd = |c: char| c.is_whitespace() || matches!(c, '*' | '@' | '?');
        if host.is_empty() || rule.contains("://") || rule.contains(odd) {
            let expected =
                "expected a host and an optional path prefix, such as registry.example.com/team";
            check.problem(setting, rule, expected);
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
