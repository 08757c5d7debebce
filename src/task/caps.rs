//! The operator's limits on what a task may ask for. *Pure.*
//!
//! What cannot be done in part is refused: too many images, an image of a registry that is not allowed. Amounts are limited,
//! and the task's condition `Limited` says so.

use std::time::Duration;

use super::{Problem, validate::ValidTask};
use crate::{duration, image::Reference};

/// The limits, as the settings of the server give them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// Most nodes of a task; 0: any number.
    pub nodes: u32,
    /// Most images of a task.
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
    pub registries: Registries,
    /// What workloads may ask of admission.
    pub admission: AdmissionCaps,
}

impl Default for Caps {
    /// The defaults of the settings.
    fn default() -> Self {
        Self {
            nodes: 0,
            images: 100,
            priority: 10,
            timeout: Duration::from_secs(24 * 3600),
            retain: Duration::from_secs(24 * 3600),
            default_deadline: Duration::from_secs(2 * 3600),
            deadline: Duration::from_secs(24 * 3600),
            registries: Registries::default(),
            admission: AdmissionCaps::default(),
        }
    }
}

/// What a workload may ask of admission, unless its Namespace says more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionCaps {
    /// Whether its annotations may ask for more nodes than `auto` comes to.
    pub all_nodes: bool,
    /// Which tolerations of its pods are taken over.
    pub tolerations: Tolerations,
}

/// Which tolerations of a workload's pods admission takes over into its tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tolerations {
    /// Those that name a key: one without a key tolerates every taint of every node.
    #[default]
    Keyed,
    /// All.
    All,
    /// Those of these keys.
    Keys(Vec<String>),
}

impl Tolerations {
    /// Whether a toleration of this key is taken over; one that names none has an empty key.
    #[must_use]
    pub fn admits(&self, key: &str) -> bool {
        match self {
            Self::Keyed => !key.is_empty(),
            Self::All => true,
            Self::Keys(keys) => keys.iter().any(|known| known == key),
        }
    }
}

/// Registries whose images may be pulled: by host, or by host and the beginning of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// Only these, where there are any.
    pub allowed: Vec<String>,
    /// None of these.
    pub denied: Vec<String>,
}

impl Registries {
    /// Why the image may not be pulled, if so.
    #[must_use]
    pub fn refusal(&self, image: &Reference) -> Option<String> {
        if let Some(rule) = self.denied.iter().find(|rule| covers(rule, image)) {
            return Some(format!("images of {rule} are denied by --denied-registries"));
        }
        let allowed = self.allowed.is_empty() || self.allowed.iter().any(|rule| covers(rule, image));
        (!allowed).then(|| format!("images of {} are not allowed by --allowed-registries", image.registry()))
    }
}

/// Whether the image lies below the rule: `host` or `host/path`, compared by whole parts of the path.
fn covers(rule: &str, image: &Reference) -> bool {
    let (host, path) = rule.split_once('/').unwrap_or((rule, ""));
    let below = |path: &str| {
        let rest = image.repository().strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    host.eq_ignore_ascii_case(image.registry()) && (path.is_empty() || below(path.trim_end_matches('/')))
}

/// What of the task is refused.
#[must_use]
pub fn check(caps: &Caps, task: &ValidTask) -> Vec<Problem> {
    let mut problems = Vec::new();
    let most = caps.images as usize;
    if task.images.len() > most {
        let reason = format!("a task may have at most {most} images (--max-images-per-task)");
        problems.push(Problem::new("spec.images", &format!("{} images", task.images.len()), &reason));
    }
    for (index, image) in task.images.iter().enumerate() {
        if let Some(reason) = caps.registries.refusal(image) {
            problems.push(Problem::new(&format!("spec.images[{index}]"), image.as_written(), &reason));
        }
    }
    problems
}

/// Limits the task's amounts. A sentence for each that is less than what was asked for, with its field and its setting.
pub fn clamp(caps: &Caps, task: &mut ValidTask) -> Vec<String> {
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

/// The priority that counts, and a sentence where that is less than what was asked for.
#[must_use]
pub fn priority(caps: &Caps, asked: u32) -> (u32, Option<String>) {
    let counts = asked.min(caps.priority);
    let why = || format!("spec.priority {asked} is limited to {counts} (--max-priority)");
    (counts, (counts < asked).then(why))
}

/// The deadline of a task, and the setting that it comes from where the task does not say it.
#[must_use]
pub fn deadline(caps: &Caps, task: &ValidTask) -> (Duration, Option<&'static str>) {
    match task.deadline {
        Some(deadline) if deadline < caps.deadline => (deadline, None),
        None if caps.default_deadline <= caps.deadline => (caps.default_deadline, Some("--default-deadline")),
        Some(_) | None => (caps.deadline, Some("--max-deadline")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::task::{PrewarmTaskSpec, validate::validate};

    fn task(images: &[&str]) -> ValidTask {
        validate(&PrewarmTaskSpec::new(images.iter().map(|image| (*image).to_owned()).collect())).unwrap()
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
    fn rules_of_registries(#[case] rule: &str, #[case] image: &str, #[case] covered: bool) {
        assert_eq!(covers(rule, &image.parse().unwrap()), covered);
    }

    #[test]
    fn what_is_denied_is_denied_though_it_is_allowed() {
        let registries =
            Registries { allowed: vec!["r.example".into()], denied: vec!["r.example/old".into(), "q.example".into()] };
        let caps = Caps { registries, images: 3, ..Caps::default() };
        let found = check(&caps, &task(&["r.example/a:1", "r.example/old/b:1", "nginx", "q.example/c:1"]));
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
        assert_eq!(check(&Caps::default(), &task(&["a", "b"])), []);
    }

    #[test]
    fn amounts_are_limited_and_that_is_said() {
        let caps = Caps { timeout: Duration::from_secs(300), deadline: Duration::from_secs(600), ..Caps::default() };
        let mut task = task(&["a"]);
        task.deadline = Some(Duration::from_secs(3600));
        let said = clamp(&caps, &mut task);
        assert_eq!((task.timeout.as_secs(), task.deadline.map(|d| d.as_secs())), (300, Some(600)));
        assert_eq!(
            said,
            [
                "spec.timeout 10m is limited to 5m (--max-timeout)",
                "spec.deadline 1h is limited to 10m (--max-deadline)"
            ]
        );
        assert!(clamp(&Caps::default(), &mut task).is_empty());
        assert_eq!(priority(&Caps { priority: 7, ..Caps::default() }, 7), (7, None));
        assert_eq!(priority(&Caps { priority: 6, ..Caps::default() }, 7).0, 6);
    }

    #[test]
    fn every_task_has_a_deadline() {
        let caps = Caps::default();
        let mut task = task(&["a"]);
        assert_eq!(deadline(&caps, &task), (Duration::from_secs(7200), Some("--default-deadline")));
        task.deadline = Some(Duration::from_secs(60));
        assert_eq!(deadline(&caps, &task), (Duration::from_secs(60), None));
        task.deadline = Some(Duration::from_secs(90_000));
        assert_eq!(deadline(&caps, &task), (Duration::from_secs(86_400), Some("--max-deadline")));
    }

    #[test]
    fn a_toleration_of_everything_names_no_key() {
        assert!(Tolerations::Keyed.admits("gpu") && !Tolerations::Keyed.admits(""));
        assert!(Tolerations::All.admits(""));
        let keys = Tolerations::Keys(vec!["gpu".into()]);
        assert!(keys.admits("gpu") && !keys.admits("other") && !keys.admits(""));
    }
}
