//! Validation of a task's spec, and its parsed form.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use super::{
    Amount, BatchPolicy, FailurePolicy, FieldError, LocalReference, MAX_RETRIES, PrewarmTaskSpec,
    PullMethod, PullPolicy, RetryStrategy, WorkerKind,
    bounds::{self, MAX_DEADLINE, MAX_DURATION, MIN_DURATION},
    rules,
};
use crate::{duration, image::ImageRef, node::NodeRequirements};

/// Largest number of nodes that `auto` selects where no workload requires more.
pub const AUTO_NODES: u32 = 100;
/// Default delay before the first retry.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// Longest delay before a retry, whatever the strategy.
const MAX_RETRY_DELAY: Duration = MAX_DURATION;
/// Bounds of `spec.priority`.
const PRIORITIES: RangeInclusive<u32> = 1..=10;
/// Values of `spec.nodes` that are words.
const NODES_WORDS: &[(&str, Share)] =
    &[("all", Share::Percent(100)), ("auto", Share::Count(AUTO_NODES))];

/// Number, or percentage of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Absolute number.
    Count(u32),
    /// Percentage, rounded up.
    Percent(u32),
}

impl Share {
    /// Returns the number out of `total`: at most `total`, and at least 1 unless `total` is 0.
    #[must_use]
    pub fn of_total(self, total: usize) -> usize {
        let many = match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => total.saturating_mul(percent as usize).div_ceil(100),
        };
        many.max(1).min(total)
    }
}

/// Retries of a failed node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// Number of retries; 0 with `failurePolicy: Skip`.
    pub limit: u8,
    strategy: RetryStrategy,
    delay: Duration,
}

impl RetryRule {
    /// Returns the delay after this number of failed tries, counted from 1.
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

/// Validated spec of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidTask {
    /// Images, in the spec's order.
    pub images: Vec<ImageRef>,
    /// Requirements on nodes.
    pub requirements: NodeRequirements,
    /// Number of matching nodes to warm.
    pub nodes: Share,
    /// Number of nodes worked on at the same time.
    pub batch_size: Share,
    /// Order in which batches follow one another.
    pub batch_policy: BatchPolicy,
    /// Time limit of each node.
    pub timeout: Duration,
    /// Time limit of the task.
    pub deadline: Option<Duration>,
    /// Share of warm nodes at which the task completes, in percent.
    pub success_threshold: u32,
    /// Pull secrets in the task's namespace.
    pub image_pull_secrets: Vec<LocalReference>,
    /// Service account in the task's namespace.
    pub service_account_name: Option<String>,
    /// Pull policy of all images; `None`: that of each image's tag.
    pub image_pull_policy: Option<PullPolicy>,
    /// Method that pulls the images.
    pub pull_method: PullMethod,
    /// Kind of the object that pulls on a node.
    pub worker: WorkerKind,
    /// Retries of failed nodes.
    pub retry: RetryRule,
    /// Time for which finished workers are kept after the end of the task.
    pub retain: Duration,
}

impl ValidTask {
    /// Returns the pull policy that applies to an image of the task.
    #[must_use]
    pub fn pull_policy(&self, image: &ImageRef) -> PullPolicy {
        PullPolicy::effective(self.image_pull_policy, image)
    }

    /// Reports whether the task uses credentials of its namespace.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        !self.image_pull_secrets.is_empty() || self.service_account_name.is_some()
    }
}

/// Parses the images. Adds a problem with the field for each invalid or duplicate one.
fn validate_images(images: &[String], problems: &mut Vec<FieldError>) -> Vec<ImageRef> {
    let mut good: Vec<ImageRef> = Vec::new();
    let mut first: HashMap<String, usize> = HashMap::new();
    for (index, text) in images.iter().enumerate() {
        let field = format!("spec.images[{index}]");
        match text.parse::<ImageRef>() {
            Err(error) => problems.push(FieldError::new(&field, text, &error.to_string())),
            Ok(reference) => {
                if let Some(earlier) = first.get(reference.normalized()) {
                    let reason = format!("duplicate of spec.images[{earlier}]: remove one of them");
                    problems.push(FieldError::new(&field, text, &reason));
                } else {
                    first.insert(reference.normalized().to_owned(), index);
                    good.push(reference);
                }
            }
        }
    }
    if images.is_empty() {
        problems.push(FieldError::new("spec.images", "", "must list at least one image"));
    }
    good
}

/// Returns the lower bound of a duration as text.
fn min_text(least: Duration) -> &'static str {
    if least.is_zero() { "0s" } else { "1s" }
}

/// Validates a spec. Returns every problem with its field.
pub fn validate(spec: &PrewarmTaskSpec) -> Result<ValidTask, Vec<FieldError>> {
    let mut problems = Vec::new();
    bounds::check_bounds(spec, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let images = validate_images(&spec.images, &mut problems);
    rules::check_rules(spec, &mut problems);
    let mut fields = FieldParser { problems: &mut problems };
    let timeout = fields.duration("timeout", &spec.timeout, MIN_DURATION..=MAX_DURATION);
    let deadline = spec
        .deadline
        .as_deref()
        .map(|text| fields.duration("deadline", text, MIN_DURATION..=MAX_DEADLINE));
    let retain = spec.retain.as_deref().map_or(Duration::ZERO, |text| {
        fields.duration("retain", text, Duration::ZERO..=MAX_DURATION)
    });
    let retry = fields.retry_rule(spec);
    fields.check_priority(spec.priority);
    let nodes = fields.share("nodes", &spec.nodes, NODES_WORDS);
    let batch_size = fields.share("batchSize", &spec.batch_size, &[]);
    let success_threshold = fields.percent("successThreshold", &spec.success_threshold);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(ValidTask {
        images,
        requirements: node_requirements(spec),
        nodes,
        batch_size,
        batch_policy: spec.batch_policy,
        timeout,
        deadline,
        success_threshold,
        image_pull_secrets: spec.image_pull_secrets.clone().unwrap_or_default(),
        service_account_name: spec.service_account_name.clone(),
        image_pull_policy: spec.image_pull_policy,
        pull_method: spec.pull_method,
        worker: spec.worker,
        retry,
        retain,
    })
}

fn node_requirements(spec: &PrewarmTaskSpec) -> NodeRequirements {
    NodeRequirements {
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        node_affinity: spec.node_affinity.clone(),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
    }
}

/// Parser of fields. Adds a problem for each invalid one, and returns a placeholder.
struct FieldParser<'a> {
    problems: &'a mut Vec<FieldError>,
}

impl FieldParser<'_> {
    /// Adds a problem of the field with this path below `spec`.
    fn report(&mut self, field: &str, value: &str, problem: &str) {
        self.problems.push(FieldError::new(&format!("spec.{field}"), value, problem));
    }

    fn duration(&mut self, field: &str, text: &str, bounds: RangeInclusive<Duration>) -> Duration {
        let problem = match duration::parse(text) {
            Ok(span) if bounds.contains(&span) => return span,
            Ok(_) => format!(
                "expected a duration from {} to {}h",
                min_text(*bounds.start()),
                bounds.end().as_secs() / 3600
            ),
            Err(error) => error.to_string(),
        };
        self.report(field, text, &problem);
        Duration::ZERO
    }

    fn retry_rule(&mut self, spec: &PrewarmTaskSpec) -> RetryRule {
        let rule = spec.retry.clone().unwrap_or_default();
        let delay = rule.delay.as_deref().map_or(RETRY_DELAY, |text| {
            self.duration("retry.delay", text, Duration::ZERO..=MAX_DURATION)
        });
        if rule.limit > MAX_RETRIES {
            let problem = format!("expected a number from 0 to {MAX_RETRIES}");
            self.report("retry.limit", &rule.limit.to_string(), &problem);
        }
        if spec.failure_policy.zip(spec.strategy).is_some_and(|(policy, alias)| policy != alias) {
            let alias = spec.strategy.map_or("", FailurePolicy::as_str);
            self.report(
                "strategy",
                alias,
                "differs from failurePolicy, its alias: set one of them",
            );
        }
        let retries = match spec.effective_failure_policy() {
            FailurePolicy::Retry => rule.limit.min(MAX_RETRIES),
            FailurePolicy::Skip => 0,
        };
        RetryRule { limit: u8::try_from(retries).unwrap_or(0), strategy: rule.strategy, delay }
    }

    fn check_priority(&mut self, priority: u32) {
        if !PRIORITIES.contains(&priority) {
            let problem =
                format!("expected a number from {} to {}", PRIORITIES.start(), PRIORITIES.end());
            self.report("priority", &priority.to_string(), &problem);
        }
    }

    fn share(&mut self, field: &str, amount: &Amount, words: &[(&str, Share)]) -> Share {
        parse_share(amount, words).unwrap_or_else(|| {
            let problem = "expected a number from 1 or a percentage from 1% to 100%";
            self.report(field, &amount.to_string(), problem);
            Share::Count(1)
        })
    }

    fn percent(&mut self, field: &str, text: &str) -> u32 {
        parse_percent(text).unwrap_or_else(|| {
            self.report(field, text, "expected a percentage from 0% to 100%");
            0
        })
    }
}

fn parse_share(amount: &Amount, words: &[(&str, Share)]) -> Option<Share> {
    match amount {
        Amount::Count(count) => (*count >= 1).then_some(Share::Count(*count)),
        Amount::Text(text) => words
            .iter()
            .find(|(word, _)| word == text)
            .map(|(_, share)| *share)
            .or_else(|| parse_percent(text).filter(|p| *p >= 1).map(Share::Percent))
            .or_else(|| text.parse().ok().filter(|count| *count >= 1).map(Share::Count)),
    }
}

fn parse_percent(text: &str) -> Option<u32> {
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
    fn every_invalid_field_is_reported() {
        let mut spec = PrewarmTaskSpec::new(vec![
            "UPPER/x".into(),
            "nginx".into(),
            "docker.io/library/nginx:latest".into(),
        ]);
        spec.timeout = "soon".into();
        spec.batch_size = Amount::Text("0%".into());
        let problems = validate(&spec).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert_eq!(problems[0].field, "spec.images[0]");
        assert!(problems[1].to_string().contains("duplicate of spec.images[1]"), "{}", problems[1]);
    }

    #[rstest]
    #[case(RetryStrategy::Linear, &[10, 20, 30, 40])]
    #[case(RetryStrategy::Exponential, &[10, 20, 40, 80])]
    fn retry_delays_grow_by_strategy(#[case] strategy: RetryStrategy, #[case] expected: &[u64]) {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        spec.retry = Some(crate::task::RetrySpec { limit: 4, strategy, delay: Some("10s".into()) });
        assert_eq!(validate(&spec).unwrap().retry.limit, 0, "failurePolicy is Skip");
        spec.failure_policy = Some(FailurePolicy::Retry);
        let rule = validate(&spec).unwrap().retry;
        assert_eq!(rule.limit, 4);
        assert_eq!((1..=4).map(|tries| rule.delay(tries).as_secs()).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case(None, None, Ok(0))]
    #[case(None, Some(FailurePolicy::Retry), Ok(3))]
    #[case(None, Some(FailurePolicy::Skip), Ok(0))]
    #[case(Some(FailurePolicy::Retry), Some(FailurePolicy::Retry), Ok(3))]
    #[case(Some(FailurePolicy::Skip), Some(FailurePolicy::Retry), Err("spec.strategy"))]
    #[case(Some(FailurePolicy::Retry), Some(FailurePolicy::Skip), Err("spec.strategy"))]
    fn strategy_is_an_alias_of_failure_policy(
        #[case] policy: Option<FailurePolicy>,
        #[case] alias: Option<FailurePolicy>,
        #[case] expected: Result<u8, &str>,
    ) {
        let mut spec = PrewarmTaskSpec::new(vec!["nginx".into()]);
        (spec.failure_policy, spec.strategy) = (policy, alias);
        let found = validate(&spec).map(|task| task.retry.limit);
        let found = found.map_err(|problems| problems[0].field.clone());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[rstest]
    #[case(Share::Count(10), 4, 4)]
    #[case(Share::Count(10), 100, 10)]
    #[case(Share::Percent(25), 10, 3)]
    #[case(Share::Percent(1), 5, 1)]
    #[case(Share::Percent(100), 7, 7)]
    #[case(Share::Percent(50), 0, 0)]
    fn shares_are_rounded_up(#[case] share: Share, #[case] total: usize, #[case] many: usize) {
        assert_eq!(share.of_total(total), many);
    }
}
