//! Parsing of annotations. Precedence: pod template, workload, namespace.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::{
    annotations::ALLOW_ALL_NODES_ANNOTATION,
    duration,
    task::{
        Amount, PREFIX, PrewarmTaskSpec, PullMethod,
        caps::{self, Caps},
        validate::AUTO_NODES,
    },
};

/// Number of nodes per replica for `nodes: auto`. A rollout uses about as many nodes as it has
/// replicas; four times that number covers the nodes that the scheduler may choose.
const AUTO_NODES_PER_REPLICA: u32 = 4;
/// All annotations that workloads may have, without the prefix.
const KNOWN_ANNOTATIONS: &[&str] =
    &["enabled", "images", "exclude-containers", "nodes", "batch-size", "priority", "timeout"];
/// Maximum length of a value or a name quoted in a warning, in characters.
const MAX_QUOTED_CHARS: usize = 255;
/// Maximum number of items parsed from one annotation.
const MAX_LIST_ITEMS: usize = 100;
/// Maximum value of `nodes`.
const MAX_NODES: u32 = 999_999;
/// Maximum value of `batch-size`.
const MAX_BATCH_SIZE: u32 = 100;
/// Bounds of `timeout`, in seconds: up to a day.
const TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// Bounds of `priority`.
const PRIORITIES: RangeInclusive<u32> = 1..=10;

/// Task options from annotations.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmOptions {
    /// Number of matching nodes to warm.
    pub nodes: Amount,
    /// Number of nodes per batch.
    pub batch_size: Amount,
    /// Priority among waiting tasks, 1 to 10.
    pub priority: u32,
    /// Time limit per node.
    pub timeout: String,
    /// Pull method. The helper is used where another webhook rewrites images, because that webhook
    /// rewrites the images of worker pods in the same way.
    pub pull_method: PullMethod,
}

impl Default for WarmOptions {
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

impl WarmOptions {
    /// Returns these options with all matching nodes.
    #[must_use]
    pub fn with_all_nodes(self) -> Self {
        Self { nodes: Amount::Text("all".into()), ..self }
    }
}

/// Returns the number of nodes for `nodes: auto` with this number of replicas.
pub(super) fn auto_node_count(least: u32, replicas: u32) -> u32 {
    least.max(replicas.saturating_mul(AUTO_NODES_PER_REPLICA))
}

/// Limits the options to the operator's limits and adds a warning for each value that is reduced.
/// `auto` is the maximum number of nodes; `None` means no maximum.
pub(super) fn apply_limits(
    options: &mut WarmOptions,
    auto: Option<u32>,
    caps: &Caps,
    warnings: &mut Vec<String>,
) {
    let within =
        |amount: &Amount, auto: u32| matches!(amount, Amount::Count(count) if *count <= auto);
    if let Some(auto) = auto.filter(|auto| !within(&options.nodes, *auto)) {
        warnings.push(format!(
            "{PREFIX}nodes: {:?} is limited to auto ({auto}): more requires the annotation {ALLOW_ALL_NODES_ANNOTATION}: \"true\" \
             on the Namespace, or --admission-all-nodes",
            options.nodes.to_string()
        ));
        options.nodes = Amount::Count(auto);
    }
    let (priority, cut) = caps::effective_priority(caps, options.priority);
    if cut.is_some() {
        let asked = options.priority;
        warnings
            .push(format!("{PREFIX}priority: {asked} is limited to {priority} (--max-priority)"));
        options.priority = priority;
    }
    if duration::parse(&options.timeout).is_ok_and(|timeout| timeout > caps.timeout) {
        let (asked, most) = (&options.timeout, duration::format(caps.timeout));
        warnings.push(format!("{PREFIX}timeout: {asked:?} is limited to {most} (--max-timeout)"));
        options.timeout = most;
    }
}

/// Values of all annotations.
#[derive(Default)]
pub(super) struct AnnotationValues {
    pub(super) enabled: Option<bool>,
    pub(super) images: Vec<String>,
    pub(super) exclude_containers: Vec<String>,
    pub(super) options: WarmOptions,
}

/// Returns a warning for each unknown annotation with the prefix, such as `prewarm.io/enable`.
pub(super) fn unknown_annotations(
    annotations: &BTreeMap<String, String>,
) -> impl Iterator<Item = String> {
    let ours = annotations.keys().filter_map(|key| key.strip_prefix(PREFIX));
    let unknown = ours.filter(|name| !KNOWN_ANNOTATIONS.contains(name));
    let shown = |name: &str| name.chars().take(MAX_QUOTED_CHARS).collect::<String>();
    unknown.map(move |name| {
        format!(
            "{PREFIX}{}: unknown annotation; known annotations are {}",
            shown(name),
            KNOWN_ANNOTATIONS.join(", ")
        )
    })
}

/// Parses `layers` in order of precedence. `automatic` is the minimum number of nodes for
/// `nodes: auto`.
pub(super) fn parse_layers(
    layers: &[&BTreeMap<String, String>],
    automatic: u32,
    replicas: u32,
    warnings: &mut Vec<String>,
) -> AnnotationValues {
    let mut parser = LayerParser { layers, warnings };
    let defaults = WarmOptions {
        nodes: Amount::Count(auto_node_count(automatic, replicas)),
        ..WarmOptions::default()
    };
    AnnotationValues {
        images: parser.list("images"),
        exclude_containers: parser.list("exclude-containers"),
        enabled: parser.enabled(),
        options: parser.options(defaults),
    }
}

/// Returns whether the `layers` opt in or out; `None` without a valid value of `enabled`.
pub(super) fn enabled(layers: &[&BTreeMap<String, String>]) -> Option<bool> {
    LayerParser { layers, warnings: &mut Vec::new() }.enabled()
}

/// Parser of annotations. Adds a warning for each invalid value.
struct LayerParser<'a> {
    layers: &'a [&'a BTreeMap<String, String>],
    warnings: &'a mut Vec<String>,
}

impl<'a> LayerParser<'a> {
    /// Returns the value of an annotation in the nearest layer that has it.
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut said = self.layers.iter().filter(|layer| !layer.is_empty()).peekable();
        said.peek()?;
        let key = format!("{PREFIX}{name}");
        said.find_map(|layer| layer.get(&key)).map(|value| value.trim())
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.value(name).map(parse_list).unwrap_or_default()
    }

    /// Returns the parsed value of an annotation, if it is present and valid.
    fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&'a str) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        let value = self.value(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            let shown: String = value.chars().take(MAX_QUOTED_CHARS).collect();
            self.warnings
                .push(format!("{PREFIX}{name}: {shown:?} is ignored: expected {expected}"));
        }
        parsed
    }

    fn enabled(&mut self) -> Option<bool> {
        self.parsed("enabled", |text| text.parse().ok(), "\"true\" or \"false\"")
    }

    /// Returns `defaults` with the options that the annotations set.
    fn options(&mut self, defaults: WarmOptions) -> WarmOptions {
        let mut options = defaults;
        let automatic = options.nodes.clone();
        let expected = "auto, all, a number from 1, or a percentage from 1% to 100%";
        if let Some(nodes) = self.parsed("nodes", |text| parse_nodes(text, automatic), expected) {
            options.nodes = nodes;
        }
        let expected = "a number from 1 to 100, or a percentage from 1% to 100%";
        let parse = |text: &str| parse_amount(text, MAX_BATCH_SIZE);
        if let Some(batch_size) = self.parsed("batch-size", parse, expected) {
            options.batch_size = batch_size;
        }
        let parse = |text: &str| text.parse().ok().filter(|priority| PRIORITIES.contains(priority));
        if let Some(priority) = self.parsed("priority", parse, "a number from 1 to 10") {
            options.priority = priority;
        }
        let expected = "a duration from 1s to 24h, such as 10m";
        if let Some(timeout) = self.parsed("timeout", parse_timeout, expected) {
            timeout.clone_into(&mut options.timeout);
        }
        options
    }
}

/// Parses the value of `nodes`.
fn parse_nodes(text: &str, automatic: Amount) -> Option<Amount> {
    match text {
        "auto" => Some(automatic),
        "all" => Some(Amount::Text("all".into())),
        text => parse_amount(text, MAX_NODES),
    }
}

/// Returns the value of `timeout`, if it is valid.
fn parse_timeout(text: &str) -> Option<&str> {
    let time = duration::parse(text).ok()?;
    TIMEOUT_SECONDS.contains(&time.as_secs()).then_some(text)
}

fn parse_list(text: &str) -> Vec<String> {
    crate::comma_separated(text).take(MAX_LIST_ITEMS).map(str::to_owned).collect()
}

fn parse_amount(text: &str, most: u32) -> Option<Amount> {
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
    fn nearest_layer_takes_precedence() {
        let (template, workload, namespace) = (
            layer(&[]),
            layer(&[("enabled", "true")]),
            layer(&[("enabled", "false"), ("priority", "9")]),
        );
        let found = parse_layers(&[&template, &workload, &namespace], 100, 1, &mut Vec::new());
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
    fn invalid_value_warns_and_uses_default(#[case] name: &str, #[case] value: &str) {
        let mut warnings = Vec::new();
        let found = parse_layers(&[&layer(&[(name, value)])], 100, 1, &mut warnings);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with(&format!("prewarm.io/{name}: ")), "{warnings:?}");
        assert_eq!(found.options, WarmOptions::default());
    }

    #[rstest]
    #[case(None, 3, Amount::Count(100))]
    #[case(None, 50, Amount::Count(200))]
    #[case(Some("auto"), 1, Amount::Count(100))]
    #[case(Some("all"), 1, Amount::Text("all".into()))]
    #[case(Some("7"), 1, Amount::Count(7))]
    #[case(Some("25%"), 1, Amount::Text("25%".into()))]
    fn parses_nodes(#[case] value: Option<&str>, #[case] replicas: u32, #[case] expected: Amount) {
        let layer = value.map(|value| layer(&[("nodes", value)])).unwrap_or_default();
        assert_eq!(parse_layers(&[&layer], 100, replicas, &mut Vec::new()).options.nodes, expected);
    }

    #[rstest]
    #[case("all", true)]
    #[case("100%", true)]
    #[case("101", true)]
    #[case("100", false)]
    #[case("auto", false)]
    fn nodes_beyond_auto_need_permission(#[case] value: &str, #[case] limited: bool) {
        let mut warnings = Vec::new();
        let found = parse_layers(&[&layer(&[("nodes", value)])], 100, 1, &mut warnings);
        let mut options = found.options.clone();
        apply_limits(&mut options, Some(auto_node_count(100, 1)), &Caps::default(), &mut warnings);
        assert_eq!(
            (warnings.len(), options.nodes != found.options.nodes),
            (usize::from(limited), limited),
            "{warnings:?}"
        );
        let mut options = found.options.clone();
        apply_limits(&mut options, None, &Caps::default(), &mut Vec::new());
        assert_eq!(options, found.options);
    }

    #[test]
    fn values_above_limits_are_reduced_with_a_warning() {
        let caps =
            Caps { priority: 6, timeout: std::time::Duration::from_secs(300), ..Caps::default() };
        let mut warnings = Vec::new();
        let mut found =
            parse_layers(&[&layer(&[("priority", "9"), ("timeout", "1h")])], 100, 1, &mut warnings);
        apply_limits(&mut found.options, None, &caps, &mut warnings);
        assert_eq!((found.options.priority, found.options.timeout.as_str()), (6, "5m"));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[1].contains("--max-timeout"), "{warnings:?}");
    }

    #[test]
    fn parses_lists() {
        let found = parse_layers(
            &[&layer(&[("images", " a:1, ,b:2 "), ("exclude-containers", "proxy")])],
            100,
            1,
            &mut Vec::new(),
        );
        assert_eq!(found.images, ["a:1", "b:2"]);
        assert_eq!(found.exclude_containers, ["proxy"]);
    }
}
