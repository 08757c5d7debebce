//! Settings that keep tenants from one another: shares, deadlines and what a task may ask for at most.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::check::{Check, list};
use crate::{
    controller::Limits,
    task::caps::{AdmissionCaps, Caps, Registries, Tolerations},
};

/// Longest time-out, `retain` and deadline that any setting may allow: a week.
const MAX_SPAN: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest `timeout` that a task may have anyway.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The most nodes that a setting may name.
const MAX_NODES: u32 = 1_000_000;
/// A worker keeps its node to itself for an hour at most.
const MAX_YIELD: Duration = Duration::from_secs(3600);

/// Shares and limits, as text.
#[derive(Debug, Args, Clone)]
pub struct LimitArgs {
    /// Tasks of one namespace that run at once; `0`: as many as `--max-concurrent-tasks`. A namespace without a running
    /// task may start one above `--max-concurrent-tasks`.
    #[arg(long, env = "MAX_CONCURRENT_TASKS_PER_NAMESPACE", default_value = "0")]
    pub max_concurrent_tasks_per_namespace: String,
    /// Workers of one namespace's tasks; `0`: nine tenths of `--max-workers`.
    #[arg(long, env = "MAX_WORKERS_PER_NAMESPACE", default_value = "0")]
    pub max_workers_per_namespace: String,
    /// How long a worker that pulls keeps its node from workers of other tasks. One that waits in the kubelet's back-off does
    /// not at all.
    #[arg(long, env = "NODE_YIELD_AFTER", default_value = "60s")]
    pub node_yield_after: String,
    /// Nodes on which a registry must fail, and none succeed, before a task pulls from it on two nodes at once at most.
    #[arg(long, env = "REGISTRY_FAILURE_THRESHOLD", default_value = "3")]
    pub registry_failure_threshold: String,
    /// `deadline` of tasks that have none.
    #[arg(long, env = "DEFAULT_DEADLINE", default_value = "2h")]
    pub default_deadline: String,
    /// Longest `deadline` of a task.
    #[arg(long, env = "MAX_DEADLINE", default_value = "24h")]
    pub max_deadline: String,
    /// Longest `timeout` of a task.
    #[arg(long, env = "MAX_TIMEOUT", default_value = "24h")]
    pub max_timeout: String,
    /// Longest `retain` of a task.
    #[arg(long, env = "MAX_RETAIN", default_value = "24h")]
    pub max_retain: String,
    /// Highest `priority` that counts, 1 to 10.
    #[arg(long, env = "MAX_PRIORITY", default_value = "10")]
    pub max_priority: String,
    /// Most nodes of a task; `0`: any number.
    #[arg(long, env = "MAX_NODES_PER_TASK", default_value = "0")]
    pub max_nodes_per_task: String,
    /// Most images of a task, 1 to 100. A task with more is refused.
    #[arg(long, env = "MAX_IMAGES_PER_TASK", default_value = "100")]
    pub max_images_per_task: String,
    /// Registries whose images may be pulled, separated by commas: `HOST[:PORT][/PATH]`, such as
    /// `registry.example.com/team,docker.io/library`. All where empty.
    #[arg(long, env = "ALLOWED_REGISTRIES", default_value = "")]
    pub allowed_registries: String,
    /// Registries whose images may not be pulled, in the same form; stronger than `--allowed-registries`.
    #[arg(long, env = "DENIED_REGISTRIES", default_value = "")]
    pub denied_registries: String,
    /// Tolerations of a workload's pods that admission takes over: `keyed` (those that name a key), `*` (all, also those of
    /// every taint), or keys separated by commas. The Namespace's annotation `prewarm.io/allow-all-nodes: "true"` lifts it.
    #[arg(long, env = "ADMISSION_TOLERATIONS", default_value = "keyed")]
    pub admission_tolerations: String,
    /// `true`: the annotation `prewarm.io/nodes` of any workload may ask for more nodes than `auto` selects. Otherwise only in
    /// namespaces whose Namespace has `prewarm.io/allow-all-nodes: "true"`.
    #[arg(long, env = "ADMISSION_ALL_NODES", default_value = "false")]
    pub admission_all_nodes: String,
}

impl Check {
    /// Reads the limits; those of one namespace follow from those of all where they are 0.
    pub(super) fn limits(&mut self, args: &LimitArgs, max_tasks: usize, max_workers: usize) -> Limits {
        let tasks = self.number(
            "--max-concurrent-tasks-per-namespace (MAX_CONCURRENT_TASKS_PER_NAMESPACE)",
            &args.max_concurrent_tasks_per_namespace,
            0,
            1000,
        ) as usize;
        let workers = self.number(
            "--max-workers-per-namespace (MAX_WORKERS_PER_NAMESPACE)",
            &args.max_workers_per_namespace,
            0,
            10_000,
        ) as usize;
        let failures = self.number(
            "--registry-failure-threshold (REGISTRY_FAILURE_THRESHOLD)",
            &args.registry_failure_threshold,
            1,
            1000,
        ) as usize;
        Limits {
            tasks_per_namespace: if tasks == 0 { max_tasks } else { tasks.min(max_tasks) },
            workers_per_namespace: if workers == 0 { nine_tenths(max_workers) } else { workers.min(max_workers) },
            yield_after: self.span("--node-yield-after (NODE_YIELD_AFTER)", &args.node_yield_after, MAX_YIELD),
            registry_failures: failures,
            caps: Arc::new(self.caps(args)),
        }
    }

    fn caps(&mut self, args: &LimitArgs) -> Caps {
        let mut time = |setting: &str, value: &str, most: Duration| {
            let span = self.span(setting, value, most);
            if span.is_zero() && crate::duration::parse(value).is_ok_and(|span| span.is_zero()) {
                self.problem(setting, value, "expected more than 0s");
            }
            span
        };
        let default_deadline = time("--default-deadline (DEFAULT_DEADLINE)", &args.default_deadline, MAX_SPAN);
        let deadline = time("--max-deadline (MAX_DEADLINE)", &args.max_deadline, MAX_SPAN);
        let timeout = time("--max-timeout (MAX_TIMEOUT)", &args.max_timeout, MAX_TIMEOUT);
        let retain = self.span("--max-retain (MAX_RETAIN)", &args.max_retain, MAX_TIMEOUT);
        Caps {
            nodes: self.number("--max-nodes-per-task (MAX_NODES_PER_TASK)", &args.max_nodes_per_task, 0, MAX_NODES),
            images: self.number("--max-images-per-task (MAX_IMAGES_PER_TASK)", &args.max_images_per_task, 1, 100),
            priority: self.number("--max-priority (MAX_PRIORITY)", &args.max_priority, 1, 10),
            timeout,
            retain,
            default_deadline,
            deadline,
            registries: Registries {
                allowed: self.registries("--allowed-registries (ALLOWED_REGISTRIES)", &args.allowed_registries),
                denied: self.registries("--denied-registries (DENIED_REGISTRIES)", &args.denied_registries),
            },
            admission: AdmissionCaps {
                all_nodes: self.flag("--admission-all-nodes (ADMISSION_ALL_NODES)", &args.admission_all_nodes),
                tolerations: tolerations(&args.admission_tolerations),
            },
        }
    }

    fn registries(&mut self, setting: &str, value: &str) -> Vec<String> {
        let rules = list(value);
        for rule in &rules {
            let host = rule.split('/').next().unwrap_or_default();
            let odd = |c: char| c.is_whitespace() || matches!(c, '*' | '@' | '?');
            if host.is_empty() || rule.contains("://") || rule.contains(odd) {
                let expected = "expected a host and perhaps the beginning of a path, such as registry.example.com/team";
                self.problem(setting, rule, expected);
            }
        }
        rules
    }
}

fn tolerations(value: &str) -> Tolerations {
    match value.trim() {
        "keyed" => Tolerations::Keyed,
        "*" => Tolerations::All,
        keys => Tolerations::Keys(list(keys)),
    }
}

/// Of 300 workers 270; of less than 10, all but one, where there are two.
fn nine_tenths(all: usize) -> usize {
    all.saturating_sub((all / 10).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_left_to_others() {
        assert_eq!([1, 2, 9, 10, 300].map(nine_tenths), [1, 1, 8, 9, 270]);
    }

    #[test]
    fn words_of_tolerations() {
        assert_eq!(tolerations("keyed"), Tolerations::Keyed);
        assert_eq!(tolerations("*"), Tolerations::All);
        assert_eq!(tolerations("gpu, spot"), Tolerations::Keys(vec!["gpu".into(), "spot".into()]));
        assert_eq!(tolerations(""), Tolerations::Keys(Vec::new()));
    }
}
