//! A task's spec, read once into what the engine works with.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use super::{
    Amount, BatchPolicy, FailurePolicy, LocalReference, PrewarmTaskSpec, Problem, PullMethod, PullPolicy,
    RetryStrategy, WorkerKind,
    bounds::{self, MAX_DEADLINE, MAX_SPAN, MIN_SPAN},
    resource::MAX_RETRIES,
    rules,
};
use crate::{duration, image::Reference, node::Demand};

/// How many nodes `auto` takes at most where no workload says more.
pub const AUTO_NODES: u32 = 100;
/// The first delay before a further try, where the spec names none.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// No delay grows beyond this, whatever the strategy.
const MAX_RETRY_DELAY: Duration = MAX_SPAN;
/// The order among waiting tasks.
const PRIORITIES: RangeInclusive<u32> = 1..=10;

/// A number, or a share in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// That many.
    Count(u32),
    /// That many of a hundred, rounded up.
    Percent(u32),
}

impl Share {
    /// How many of `total` that is: at most `total`, and at least one where there is one.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        let many = match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => total.saturating_mul(percent as usize).div_ceil(100),
        };
        many.max(1).min(total)
    }
}

/// How a failed node is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// How many further tries; none with `failurePolicy: Skip`.
    pub limit: u8,
    strategy: RetryStrategy,
    delay: Duration,
}

impl RetryRule {
    /// How long to wait after the `tries`th failure, from 1.
    #[must_use]
    pub fn delay(&self, tries: u8) -> Duration {
        let tries = u32::from(tries.max(1));
        let factor = match self.strategy {
            RetryStrategy::Linear => tries,
            RetryStrategy::Exponential => {
                1_u32.checked_shl(tries.saturating_sub(1).min(MAX_RETRIES)).unwrap_or(u32::MAX)
            }
        };
        self.delay.saturating_mul(factor).min(MAX_RETRY_DELAY)
    }
}

/// A task whose every field is known to be good.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidTask {
    /// The images, in the spec's order.
    pub images: Vec<Reference>,
    /// What is asked of nodes.
    pub demand: Demand,
    /// How many of the matching nodes.
    pub nodes: Share,
    /// How many nodes at once.
    pub batch_size: Share,
    /// How batches follow one another.
    pub batch_policy: BatchPolicy,
    /// How long a node may take.
    pub timeout: Duration,
    /// How long the whole task may take.
    pub deadline: Option<Duration>,
    /// The share of warm nodes at which the task counts as completed, in percent.
    pub success_threshold: u32,
    /// Pull secrets of the namespace.
    pub image_pull_secrets: Vec<LocalReference>,
    /// Service account of the namespace.
    pub service_account_name: Option<String>,
    /// When the registry is asked.
    pub image_pull_policy: PullPolicy,
    /// Which method pulls.
    pub pull_method: PullMethod,
    /// What kind of object pulls.
    pub worker: WorkerKind,
    /// What a failed node gets.
    pub retry: RetryRule,
    /// How long finished workers stay after the task's end.
    pub retain: Duration,
}

impl ValidTask {
    /// Whether the task names credentials of its namespace.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        !self.image_pull_secrets.is_empty() || self.service_account_name.is_some()
    }
}

/// Reads the images; every problem is named with its field.
fn validate_images(images: &[String], problems: &mut Vec<Problem>) -> Vec<Reference> {
    let mut good: Vec<Reference> = Vec::new();
    let mut first: HashMap<String, usize> = HashMap::new();
    for (index, text) in images.iter().enumerate() {
        let field = format!("spec.images[{index}]");
        match text.parse::<Reference>() {
            Err(error) => problems.push(Problem::new(&field, text, &error.to_string())),
            Ok(reference) => {
                if let Some(earlier) = first.get(reference.normalized()) {
                    let reason = format!("the same image as spec.images[{earlier}]: leave one of them out");
                    problems.push(Problem::new(&field, text, &reason));
                } else {
                    first.insert(reference.normalized().to_owned(), index);
                    good.push(reference);
                }
            }
        }
    }
    if images.is_empty() {
        problems.push(Problem::new("spec.images", "", "name at least one image"));
    }
    good
}

/// The least of a span, for people.
fn shortest(least: Duration) -> &'static str {
    if least.is_zero() { "0s" } else { "1s" }
}

/// Reads the whole spec; every problem is named with its field.
pub fn validate(spec: &PrewarmTaskSpec) -> Result<ValidTask, Vec<Problem>> {
    let mut problems = Vec::new();
    bounds::check(spec, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let images = validate_images(&spec.images, &mut problems);
    rules::check(spec, &mut problems);
    let mut time = |field: &str, text: &str, least: Duration, most: Duration| {
        let problem = match duration::parse(text) {
            Ok(span) if (least..=most).contains(&span) => return span,
            Ok(_) => format!("expected a duration from {} to {}h", shortest(least), most.as_secs() / 3600),
            Err(error) => error,
        };
        problems.push(Problem::new(&format!("spec.{field}"), text, &problem));
        Duration::ZERO
    };
    let timeout = time("timeout", &spec.timeout, MIN_SPAN, MAX_SPAN);
    let deadline = spec.deadline.as_deref().map(|text| time("deadline", text, MIN_SPAN, MAX_DEADLINE));
    let retain = spec.retain.as_deref().map_or(Duration::ZERO, |text| time("retain", text, Duration::ZERO, MAX_SPAN));
    let rule = spec.retry.clone().unwrap_or_default();
    let delay = rule.delay.as_deref().map_or(RETRY_DELAY, |text| time("retry.delay", text, Duration::ZERO, MAX_SPAN));
    if rule.limit > MAX_RETRIES {
        let reason = format!("expected a number from 0 to {MAX_RETRIES}");
        problems.push(Problem::new("spec.retry.limit", &rule.limit.to_string(), &reason));
    }
    if !PRIORITIES.contains(&spec.priority) {
        let reason = format!("expected a number from {} to {}", PRIORITIES.start(), PRIORITIES.end());
        problems.push(Problem::new("spec.priority", &spec.priority.to_string(), &reason));
    }
    let tries = if spec.failure_policy == FailurePolicy::Retry { rule.limit.min(MAX_RETRIES) } else { 0 };
    let retry = RetryRule { limit: u8::try_from(tries).unwrap_or(0), strategy: rule.strategy, delay };
    let mut share = |field: &str, amount: &Amount, words: &[(&str, Share)]| {
        parse_share(amount, words).unwrap_or_else(|| {
            let reason = "expected a number from 1 or a percentage from 1% to 100%";
            problems.push(Problem::new(&format!("spec.{field}"), &amount.to_string(), reason));
            Share::Count(1)
        })
    };
    let nodes = share("nodes", &spec.nodes, &[("all", Share::Percent(100)), ("auto", Share::Count(AUTO_NODES))]);
    let batch_size = share("batchSize", &spec.batch_size, &[]);
    let threshold = percent(&spec.success_threshold).unwrap_or_else(|| {
        problems.push(Problem::new("spec.successThreshold", &spec.success_threshold, "expected 0% to 100%"));
        0
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(ValidTask {
        images,
        demand: Demand {
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_affinity: spec.node_affinity.clone(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        },
        nodes,
        batch_size,
        batch_policy: spec.batch_policy,
        timeout,
        deadline,
        success_threshold: threshold,
        image_pull_secrets: spec.image_pull_secrets.clone().unwrap_or_default(),
        service_account_name: spec.service_account_name.clone(),
        image_pull_policy: spec.image_pull_policy,
        pull_method: spec.pull_method,
        worker: spec.worker,
        retry,
        retain,
    })
}

fn parse_share(amount: &Amount, words: &[(&str, Share)]) -> Option<Share> {
    match amount {
        Amount::Count(count) => (*count >= 1).then_some(Share::Count(*count)),
        Amount::Text(text) => words
            .iter()
            .find(|(word, _)| word == text)
            .map(|(_, share)| *share)
            .or_else(|| percent(text).filter(|p| *p >= 1).map(Share::Percent))
            .or_else(|| text.parse().ok().filter(|count| *count >= 1).map(Share::Count)),
    }
}

fn percent(text: &str) -> Option<u32> {
    text.strip_suffix('%')?.parse().ok().filter(|percent| *percent <= 100)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn defaults_are_valid() {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx".into()])).unwrap();
        assert_eq!(task.timeout, Duration::from_secs(600));
        assert_eq!(task.success_threshold, 90);
        assert_eq!((task.nodes, task.batch_size), (Share::Percent(100), Share::Count(10)));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut spec =
            PrewarmTaskSpec::new(vec!["UPPER/x".into(), "nginx".into(), "docker.io/library/nginx:latest".into()]);
        spec.timeout = "soon".into();
        spec.batch_size = Amount::Text("0%".into());
        let problems = validate(&spec).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert_eq!(problems[0].field, "spec.images[0]");
        assert!(problems[1].to_string().contains("same image as spec.images[1]"), "{}", problems[1]);
    }

    #[rstest]
    #[case(RetryStrategy::Linear, &[10, 20, 30, 40])]
    #[case(RetryStrategy::Exponential, &[10, 20, 40, 80])]
    fn delays(#[case] strategy: RetryStrategy, #[case] expected: &[u64]) {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.retry = Some(crate::task::Retry { limit: 4, strategy, delay: Some("10s".into()) });
        assert_eq!(validate(&spec).unwrap().retry.limit, 0, "failurePolicy is Skip");
        spec.failure_policy = FailurePolicy::Retry;
        let rule = validate(&spec).unwrap().retry;
        assert_eq!(rule.limit, 4);
        assert_eq!((1..=4).map(|tries| rule.delay(tries).as_secs()).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case(Share::Count(10), 4, 4)]
    #[case(Share::Count(10), 100, 10)]
    #[case(Share::Percent(25), 10, 3)]
    #[case(Share::Percent(1), 5, 1)]
    #[case(Share::Percent(100), 7, 7)]
    #[case(Share::Percent(50), 0, 0)]
    fn shares(#[case] share: Share, #[case] total: usize, #[case] many: usize) {
        assert_eq!(share.of(total), many);
    }
}
