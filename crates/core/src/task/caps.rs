//! Upper bounds that the operator sets for tasks. Pure: no client, no clock, no I/O.
//!
//! A task is refused where a bound cannot be applied in part: too many images, or an image of a
//! registry that is not allowed. Other values are reduced to the bound, which the task's condition
//! `Limited` reports.

use std::time::Duration;

use super::{FieldError, validate::ValidTask};
use crate::{duration, image::ImageRef};

/// Upper bounds for tasks, from the server's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// Largest number of nodes of a task; 0: unlimited.
    pub nodes: u32,
    /// Largest number of images of a task.
    pub images: u32,
    /// Highest priority.
    pub priority: u32,
    /// Longest `timeout`.
    pub timeout: Duration,
    /// Longest `retain`.
    pub retain: Duration,
    /// `deadline` of a task that has none.
    pub default_deadline: Duration,
    /// Longest `deadline`.
    pub deadline: Duration,
    /// Registries whose images may be pulled.
    pub registries: RegistryRules,
    /// Bounds for values that come from a workload's annotations and pods.
    pub admission: AdmissionCaps,
}

impl Default for Caps {
    /// Returns the defaults of the settings.
    fn default() -> Self {
        Self {
            nodes: 0,
            images: 100,
            priority: 10,
            timeout: Duration::from_secs(24 * 3600),
            retain: Duration::from_secs(24 * 3600),
            default_deadline: Duration::from_secs(2 * 3600),
            deadline: Duration::from_secs(24 * 3600),
            registries: RegistryRules::default(),
            admission: AdmissionCaps::default(),
        }
    }
}

/// Bounds for what a workload may request of admission, unless its Namespace lifts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionCaps {
    /// True where annotations may request more nodes than `auto` selects.
    pub all_nodes: bool,
    /// Tolerations of the workload's pods that are copied.
    pub tolerations: TolerationFilter,
}

/// Tolerations of a workload's pods that admission copies into its tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TolerationFilter {
    /// Those with a key. A toleration without a key tolerates every taint of every node.
    #[default]
    Keyed,
    /// All tolerations.
    All,
    /// Tolerations with one of these keys.
    Keys(Vec<String>),
}

impl TolerationFilter {
    /// Reports whether a toleration with this key is copied. A toleration without a key has an
    /// empty key.
    #[must_use]
    pub fn allows(&self, key: &str) -> bool {
        match self {
            Self::Keyed => !key.is_empty(),
            Self::All => true,
            Self::Keys(keys) => keys.iter().any(|known| known == key),
        }
    }
}

/// Registries whose images may be pulled: by host, or by host and path prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryRules {
    /// Allowed registries; all where empty.
    pub allowed: Vec<String>,
    /// Denied registries.
    pub denied: Vec<String>,
}

impl RegistryRules {
    /// Returns the reason why the image may not be pulled, or none where it may.
    #[must_use]
    pub fn rejection(&self, image: &ImageRef) -> Option<String> {
        if let Some(rule) = self.denied.iter().find(|rule| covers(rule, image)) {
            return Some(format!("images of {rule} are denied by --denied-registries"));
        }
        let allowed =
            self.allowed.is_empty() || self.allowed.iter().any(|rule| covers(rule, image));
        (!allowed).then(|| {
            format!("images of {} are not allowed by --allowed-registries", image.registry())
        })
    }
}

/// Reports whether the rule `host` or `host/path` covers the image. Paths are compared by complete
/// segments.
fn covers(rule: &str, image: &ImageRef) -> bool {
    let (host, path) = rule.split_once('/').unwrap_or((rule, ""));
    let below = |path: &str| {
        let rest = image.repository().strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    host.eq_ignore_ascii_case(image.registry())
        && (path.is_empty() || below(path.trim_end_matches('/')))
}

/// Returns the problems for which the task is refused.
#[must_use]
pub fn check_limits(caps: &Caps, task: &ValidTask) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let most = caps.images as usize;
    if task.images.len() > most {
        let reason = format!("a task may have at most {most} images (--max-images-per-task)");
        problems.push(FieldError::new(
            "spec.images",
            &format!("{} images", task.images.len()),
            &reason,
        ));
    }
    for (index, image) in task.images.iter().enumerate() {
        if let Some(reason) = caps.registries.rejection(image) {
            problems.push(FieldError::new(
                &format!("spec.images[{index}]"),
                image.as_written(),
                &reason,
            ));
        }
    }
    problems
}

/// Reduces the task's durations to the bounds. Returns a message for each reduced value, with its
/// field and the setting.
pub fn apply_limits(caps: &Caps, task: &mut ValidTask) -> Vec<String> {
    let mut limited = Vec::new();
    let mut span = |field: &str, value: &mut Duration, most: Duration, setting: &str| {
        if *value > most {
            let (asked, most_text) = (duration::format(*value), duration::format(most));
            limited.push(format!("spec.{field} {asked} is limited to {most_text} ({setting})"));
            *value = most;
        }
    };
    span("timeout", &mut task.timeout, caps.timeout, "--max-timeout");
    span("retain", &mut task.retain, caps.retain, "--max-retain");
    if let Some(deadline) = &mut task.deadline {
        span("deadline", deadline, caps.deadline, "--max-deadline");
    }
    limited
}

/// Returns the effective priority, and a message where it is lower than the requested one.
#[must_use]
pub fn effective_priority(caps: &Caps, asked: u32) -> (u32, Option<String>) {
    let counts = asked.min(caps.priority);
    let why = || format!("spec.priority {asked} is limited to {counts} (--max-priority)");
    (counts, (counts < asked).then(why))
}

/// Returns the effective deadline of a task, and the setting that it comes from where it is not the
/// task's own.
#[must_use]
pub fn effective_deadline(caps: &Caps, task: &ValidTask) -> (Duration, Option<&'static str>) {
    match task.deadline {
        Some(deadline) if deadline < caps.deadline => (deadline, None),
        None if caps.default_deadline <= caps.deadline => {
            (caps.default_deadline, Some("--default-deadline"))
        }
        Some(_) | None => (caps.deadline, Some("--max-deadline")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::task::{PrewarmTaskSpec, validate::validate};

    fn task(images: &[&str]) -> ValidTask {
        validate(&PrewarmTaskSpec::new(images.iter().map(|image| (*image).to_owned()).collect()))
            .unwrap()
    }

    #[rstest]
    #[case("r.example", "r.example/a:1", true)]
    #[case("R.Example", "r.example/a:1", true)]
    #[case("r.example", "r.example:5000/a:1", false)]
    #[case("r.example:5000", "r.example:5000/a:1", true)]
    #[case("r.example", "evil.r.example/a:1", false)]
    #[case("r.example/team", "r.example/team/a:1", true)]
    #[case("r.example/team/", "r.example/team/a:1", true)]
    #[case("r.example/team", "r.example/team:1", true)]
    #[case("r.example/team", "r.example/teammate/a:1", false)]
    #[case("docker.io/library", "nginx", true)]
    #[case("docker.io", "team/app", true)]
    #[case("docker.io/library", "team/app", false)]
    fn registry_rules_match_host_and_path(
        #[case] rule: &str,
        #[case] image: &str,
        #[case] covered: bool,
    ) {
        assert_eq!(covers(rule, &image.parse().unwrap()), covered);
    }

    #[test]
    fn denied_registries_override_allowed_ones() {
        let registries = RegistryRules {
            allowed: vec!["r.example".into()],
            denied: vec!["r.example/old".into(), "q.example".into()],
        };
        let caps = Caps { registries, images: 3, ..Caps::default() };
        let found = check_limits(
            &caps,
            &task(&["r.example/a:1", "r.example/old/b:1", "nginx", "q.example/c:1"]),
        );
        let text: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "spec.images: \"4 images\": a task may have at most 3 images (--max-images-per-task)",
                "spec.images[1]: \"r.example/old/b:1\": images of r.example/old are denied by --denied-registries",
                "spec.images[2]: \"nginx\": images of docker.io are not allowed by --allowed-registries",
                "spec.images[3]: \"q.example/c:1\": images of q.example are denied by --denied-registries",
            ]
        );
        assert_eq!(check_limits(&Caps::default(), &task(&["a", "b"])), []);
    }

    #[test]
    fn values_are_reduced_and_reported() {
        let caps = Caps {
            timeout: Duration::from_secs(300),
            deadline: Duration::from_secs(600),
            ..Caps::default()
        };
        let mut task = task(&["a"]);
        task.deadline = Some(Duration::from_secs(3600));
        let said = apply_limits(&caps, &mut task);
        assert_eq!((task.timeout.as_secs(), task.deadline.map(|d| d.as_secs())), (300, Some(600)));
        assert_eq!(
            said,
            [
                "spec.timeout 10m is limited to 5m (--max-timeout)",
                "spec.deadline 1h is limited to 10m (--max-deadline)"
            ]
        );
        assert!(apply_limits(&Caps::default(), &mut task).is_empty());
        assert_eq!(effective_priority(&Caps { priority: 7, ..Caps::default() }, 7), (7, None));
        assert_eq!(effective_priority(&Caps { priority: 6, ..Caps::default() }, 7).0, 6);
    }

    #[test]
    fn every_task_has_a_deadline() {
        let caps = Caps::default();
        let mut task = task(&["a"]);
        assert_eq!(
            effective_deadline(&caps, &task),
            (Duration::from_secs(7200), Some("--default-deadline"))
        );
        task.deadline = Some(Duration::from_secs(60));
        assert_eq!(effective_deadline(&caps, &task), (Duration::from_secs(60), None));
        task.deadline = Some(Duration::from_secs(90_000));
        assert_eq!(
            effective_deadline(&caps, &task),
            (Duration::from_secs(86_400), Some("--max-deadline"))
        );
    }

    #[test]
    fn tolerations_without_key_need_the_filter_all() {
        assert!(TolerationFilter::Keyed.allows("gpu") && !TolerationFilter::Keyed.allows(""));
        assert!(TolerationFilter::All.allows(""));
        let keys = TolerationFilter::Keys(vec!["gpu".into()]);
        assert!(keys.allows("gpu") && !keys.allows("other") && !keys.allows(""));
    }
}
