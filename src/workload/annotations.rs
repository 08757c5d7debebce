//! The annotations. The nearest wins: template, workload, namespace.

use std::collections::BTreeMap;

use crate::{
    duration,
    task::{
        Amount, PREFIX, PrewarmTaskSpec, PullMethod,
        caps::{self, Caps},
        validate::AUTO_NODES,
    },
};

/// A rollout touches about as many nodes as it has replicas; four times that covers what the scheduler may choose.
const AUTO_NODES_PER_REPLICA: u32 = 4;
/// All annotations that workloads may carry, without the prefix.
const KNOWN: &[&str] = &["enabled", "images", "exclude-containers", "nodes", "batch-size", "priority", "timeout"];
/// Characters of a value or a name that a warning quotes.
const MAX_SHOWN: usize = 255;
/// Longest list taken from one annotation.
const MAX_LISTED: usize = 100;
/// On a Namespace, by its administrator: its workloads may ask for all nodes, and for those with any taint.
pub(super) const ALLOW_ALL_NODES: &str = "prewarm.io/allow-all-nodes";

/// What annotations carry into the task.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How many of the matching nodes.
    pub nodes: Amount,
    /// How many nodes at once.
    pub batch_size: Amount,
    /// The order among waiting tasks.
    pub priority: u32,
    /// How long a node may take.
    pub timeout: String,
    /// Which method pulls: the helper where another webhook rewrites images, because it rewrites those of our pods alike.
    pub pull_method: PullMethod,
}

impl Default for Options {
    fn default() -> Self {
        let spec = PrewarmTaskSpec::new(Vec::new());
        Self {
            nodes: Amount::Count(AUTO_NODES),
            batch_size: spec.batch_size,
            priority: spec.priority,
            timeout: spec.timeout,
            pull_method: spec.pull_method,
        }
    }
}

impl Options {
    /// The same, on every matching node.
    #[must_use]
    pub fn on_all_nodes(self) -> Self {
        Self { nodes: Amount::Text("all".into()), ..self }
    }
}

/// How many nodes `auto` comes to, for so many replicas.
pub(super) fn automatic(least: u32, replicas: u32) -> u32 {
    least.max(replicas.saturating_mul(AUTO_NODES_PER_REPLICA))
}

/// Keeps what annotations ask for within the operator's limits; what is less than was asked for becomes a warning. `auto`: how
/// many nodes may be asked for, where not any number.
pub(super) fn limit(options: &mut Options, auto: Option<u32>, caps: &Caps, warnings: &mut Vec<String>) {
    let within = |amount: &Amount, auto: u32| matches!(amount, Amount::Count(count) if *count <= auto);
    if let Some(auto) = auto.filter(|auto| !within(&options.nodes, *auto)) {
        warnings.push(format!(
            "{PREFIX}nodes: {:?} is limited to auto ({auto}): the Namespace has no annotation {ALLOW_ALL_NODES}: \"true\" \
             (--admission-all-nodes)",
            options.nodes.to_string()
        ));
        options.nodes = Amount::Count(auto);
    }
    let (priority, cut) = caps::priority(caps, options.priority);
    if cut.is_some() {
        let asked = options.priority;
        warnings.push(format!("{PREFIX}priority: {asked} is limited to {priority} (--max-priority)"));
        options.priority = priority;
    }
    if duration::parse(&options.timeout).is_ok_and(|timeout| timeout > caps.timeout) {
        let (asked, most) = (&options.timeout, duration::format(caps.timeout));
        warnings.push(format!("{PREFIX}timeout: {asked:?} is limited to {most} (--max-timeout)"));
        options.timeout = most;
    }
}

/// All that annotations say.
#[derive(Default)]
pub(super) struct Found {
    pub(super) enabled: Option<bool>,
    pub(super) images: Vec<String>,
    pub(super) exclude_containers: Vec<String>,
    pub(super) options: Options,
}

/// What is told of annotations of ours that there are not, such as `prewarm.io/enable`.
pub(super) fn strangers(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    let ours = annotations.keys().filter_map(|key| key.strip_prefix(PREFIX));
    let unknown = ours.filter(|name| !KNOWN.contains(name));
    let shown = |name: &str| name.chars().take(MAX_SHOWN).collect::<String>();
    unknown.map(move |name| {
        format!("{PREFIX}{}: there is no such annotation: known are {}", shown(name), KNOWN.join(", "))
    })
}

/// Reads `layers`, nearest first. `automatic`: the least that `nodes: auto` comes to.
pub(super) fn read(
    layers: &[&BTreeMap<String, String>],
    automatic: u32,
    replicas: u32,
    warnings: &mut Vec<String>,
) -> Found {
    let value = |name: &str| {
        let mut said = layers.iter().filter(|layer| !layer.is_empty()).peekable();
        said.peek()?;
        let key = format!("{PREFIX}{name}");
        said.find_map(|layer| layer.get(&key)).map(|value| value.trim())
    };
    let mut complain = |name: &str, value: &str, expected: &str| {
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        warnings.push(format!("{PREFIX}{name}: {shown:?} is ignored: expected {expected}"));
    };
    let automatic = Amount::Count(self::automatic(automatic, replicas));
    let mut found = Found {
        images: value("images").map(list).unwrap_or_default(),
        exclude_containers: value("exclude-containers").map(list).unwrap_or_default(),
        options: Options { nodes: automatic, ..Options::default() },
        enabled: None,
    };
    match value("enabled") {
        None => {}
        Some("true") => found.enabled = Some(true),
        Some("false") => found.enabled = Some(false),
        Some(other) => complain("enabled", other, "\"true\" or \"false\""),
    }
    match value("nodes") {
        None | Some("auto") => {}
        Some("all") => found.options.nodes = Amount::Text("all".into()),
        Some(text) => match amount(text, 999_999) {
            Some(amount) => found.options.nodes = amount,
            None => complain("nodes", text, "auto, all, a number from 1, or a percentage from 1% to 100%"),
        },
    }
    if let Some(text) = value("batch-size") {
        match amount(text, 100) {
            Some(amount) => found.options.batch_size = amount,
            None => complain("batch-size", text, "a number from 1 to 100, or a percentage from 1% to 100%"),
        }
    }
    if let Some(text) = value("priority") {
        match text.parse() {
            Ok(priority @ 1..=10) => found.options.priority = priority,
            _ => complain("priority", text, "a number from 1 to 10"),
        }
    }
    if let Some(text) = value("timeout") {
        match duration::parse(text) {
            Ok(time) if (1..=86_400).contains(&time.as_secs()) => text.clone_into(&mut found.options.timeout),
            _ => complain("timeout", text, "a duration from 1s to 24h, such as 10m"),
        }
    }
    found
}

fn list(text: &str) -> Vec<String> {
    crate::items(text).take(MAX_LISTED).map(str::to_owned).collect()
}

fn amount(text: &str, most: u32) -> Option<Amount> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u32 = percent.parse().ok()?;
        return (1..=100).contains(&percent).then(|| Amount::Text(format!("{percent}%")));
    }
    text.parse().ok().filter(|count| (1..=most).contains(count)).map(Amount::Count)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn layer(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn the_nearest_wins() {
        let (template, workload, namespace) =
            (layer(&[]), layer(&[("enabled", "true")]), layer(&[("enabled", "false"), ("priority", "9")]));
        let found = read(&[&template, &workload, &namespace], 100, 1, &mut Vec::new());
        assert_eq!((found.enabled, found.options.priority), (Some(true), 9));
    }

    #[rstest]
    #[case("enabled", "yes")]
    #[case("nodes", "0")]
    #[case("nodes", "101%")]
    #[case("batch-size", "101")]
    #[case("priority", "11")]
    #[case("timeout", "soon")]
    #[case("timeout", "0s")]
    fn nonsense_is_a_warning_and_falls_back(#[case] name: &str, #[case] value: &str) {
        let mut warnings = Vec::new();
        let found = read(&[&layer(&[(name, value)])], 100, 1, &mut warnings);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with(&format!("prewarm.io/{name}: ")), "{warnings:?}");
        assert_eq!(found.options, Options::default());
    }

    #[rstest]
    #[case(None, 3, Amount::Count(100))]
    #[case(None, 50, Amount::Count(200))]
    #[case(Some("auto"), 1, Amount::Count(100))]
    #[case(Some("all"), 1, Amount::Text("all".into()))]
    #[case(Some("7"), 1, Amount::Count(7))]
    #[case(Some("25%"), 1, Amount::Text("25%".into()))]
    fn nodes(#[case] value: Option<&str>, #[case] replicas: u32, #[case] expected: Amount) {
        let layer = value.map(|value| layer(&[("nodes", value)])).unwrap_or_default();
        assert_eq!(read(&[&layer], 100, replicas, &mut Vec::new()).options.nodes, expected);
    }

    #[rstest]
    #[case("all", true)]
    #[case("100%", true)]
    #[case("101", true)]
    #[case("100", false)]
    #[case("auto", false)]
    fn more_nodes_than_auto_need_leave(#[case] value: &str, #[case] limited: bool) {
        let mut warnings = Vec::new();
        let found = read(&[&layer(&[("nodes", value)])], 100, 1, &mut warnings);
        let mut options = found.options.clone();
        limit(&mut options, Some(automatic(100, 1)), &Caps::default(), &mut warnings);
        assert_eq!(
            (warnings.len(), options.nodes != found.options.nodes),
            (usize::from(limited), limited),
            "{warnings:?}"
        );
        let mut options = found.options.clone();
        limit(&mut options, None, &Caps::default(), &mut Vec::new());
        assert_eq!(options, found.options);
    }

    #[test]
    fn amounts_are_limited_with_a_warning() {
        let caps = Caps { priority: 6, timeout: std::time::Duration::from_secs(300), ..Caps::default() };
        let mut warnings = Vec::new();
        let mut found = read(&[&layer(&[("priority", "9"), ("timeout", "1h")])], 100, 1, &mut warnings);
        limit(&mut found.options, None, &caps, &mut warnings);
        assert_eq!((found.options.priority, found.options.timeout.as_str()), (6, "5m"));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[1].contains("--max-timeout"), "{warnings:?}");
    }

    #[test]
    fn lists() {
        let found =
            read(&[&layer(&[("images", " a:1, ,b:2 "), ("exclude-containers", "proxy")])], 100, 1, &mut Vec::new());
        assert_eq!(found.images, ["a:1", "b:2"]);
        assert_eq!(found.exclude_containers, ["proxy"]);
    }
}
