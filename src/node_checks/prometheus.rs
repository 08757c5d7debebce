//! Check that excludes nodes by the result of a Prometheus query.
//!
//! The address is chosen by the operator alone and is usually a Service of the cluster, so the
//! egress policy does not apply.

use std::{collections::HashMap, path::PathBuf, str::FromStr, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use prewarmer_core::task::plan::NodeCheckFindings;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::{CheckInput, NodeCheck, NodeCheckError};

/// Timeout of a query.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a response, in bytes. 10,000 nodes with 300 bytes each have 3 MB, and a query
/// may return further labels.
const MAX_RESPONSE: usize = 16 << 20;
/// Number of nodes that may always be excluded, regardless of the percentage: in a small task or
/// cluster a few unhealthy nodes are a large share.
const MIN_EXCLUDABLE: usize = 3;
/// Reason in a task's `ignoredNodes`.
const REASON: &str = "Unhealthy";

/// Condition on a sample's value under which its node is excluded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Greater than the number.
    Above(f64),
    /// Greater than or equal to the number.
    AtLeast(f64),
    /// Less than the number.
    Below(f64),
    /// Less than or equal to the number.
    AtMost(f64),
}

/// Text that is not a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected >, >=, < or <= and a number, such as >0.9")]
pub struct ThresholdError;

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number =
            |rest: &str| rest.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let parsed = if let Some(rest) = text.strip_prefix(">=") {
            number(rest).map(Self::AtLeast)
        } else if let Some(rest) = text.strip_prefix("<=") {
            number(rest).map(Self::AtMost)
        } else if let Some(rest) = text.strip_prefix('>') {
            number(rest).map(Self::Above)
        } else {
            text.strip_prefix('<').and_then(number).map(Self::Below)
        };
        parsed.ok_or(ThresholdError)
    }
}

impl Threshold {
    fn matches(self, value: f64) -> bool {
        match self {
            Self::Above(bound) => value > bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// Settings of the Prometheus check.
#[derive(Debug, Clone, PartialEq)]
pub struct PrometheusSettings {
    /// URL, such as `http://prometheus.monitoring:9090`.
    pub url: String,
    /// `PromQL` query that returns one sample per node.
    pub query: String,
    /// Condition under which a node is excluded.
    pub threshold: Threshold,
    /// Label that identifies the node by name, host name or address, with or without a port.
    pub label: String,
    /// File with a bearer token, read for each query.
    pub token_file: Option<PathBuf>,
    /// Maximum percentage of nodes to exclude. A larger share indicates a failure of monitoring or
    /// forged samples: a scraped target chooses the labels of its samples.
    pub max_ignored: u8,
}

/// Check that queries Prometheus.
pub(crate) struct PrometheusCheck {
    settings: PrometheusSettings,
    client: reqwest::Client,
}

/// Reason why a query failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// Configured address that is not a URL.
    #[error("{0}: {1}")]
    Url(String, #[source] <Url as FromStr>::Err),
    /// File with the token that could not be read.
    #[error("{}: {}", .0.display(), .1)]
    TokenFile(PathBuf, #[source] std::io::Error),
    /// Request without a complete response.
    #[error("{}", innermost_cause(.0))]
    Request(#[from] reqwest::Error),
    /// Response above the maximum size.
    #[error("the response has more than {} MiB", MAX_RESPONSE >> 20)]
    TooLarge,
    /// Response that is not one of Prometheus, with its status.
    #[error("HTTP {0}: the body is not a Prometheus response")]
    NotPrometheus(StatusCode),
    /// Error that Prometheus returned.
    #[error("{0}")]
    Rejected(String),
    /// Response without data and without an error, with its status.
    #[error("HTTP {0}")]
    NoData(StatusCode),
    /// Result of another type than a vector.
    #[error("the query returns a {0}: it must return one sample per node")]
    NotVector(String),
    /// Samples that cannot be parsed.
    #[error(transparent)]
    Samples(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct QueryResponse {
    data: Option<QueryData>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueryData {
    result_type: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Sample {
    metric: HashMap<String, String>,
    value: (f64, String),
}

impl PrometheusCheck {
    /// Creates a check. The error is that of the HTTP client.
    pub(crate) fn new(settings: PrometheusSettings) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { settings, client })
    }

    async fn query(&self) -> Result<Vec<Sample>, QueryError> {
        let url = format!("{}/api/v1/query", self.settings.url.trim_end_matches('/'));
        let mut url = Url::parse(&url).map_err(|error| QueryError::Url(url, error))?;
        url.query_pairs_mut().append_pair("query", &self.settings.query);
        let mut request = self.client.get(url);
        if let Some(file) = &self.settings.token_file {
            let token = tokio::fs::read_to_string(file)
                .await
                .map_err(|error| QueryError::TokenFile(file.clone(), error))?;
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.send().await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len().saturating_add(chunk.len()) > MAX_RESPONSE {
                return Err(QueryError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let answer: QueryResponse =
            serde_json::from_slice(&body).map_err(|_| QueryError::NotPrometheus(status))?;
        let data = answer
            .data
            .ok_or_else(|| answer.error.map_or(QueryError::NoData(status), QueryError::Rejected))?;
        if data.result_type != "vector" {
            return Err(QueryError::NotVector(data.result_type));
        }
        Ok(serde_json::from_value(data.result)?)
    }
}

/// Returns the innermost cause. The outer ones repeat the address.
fn innermost_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no response within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl NodeCheck for PrometheusCheck {
    fn name(&self) -> &'static str {
        "Prometheus"
    }

    fn evaluate<'a>(
        &'a self,
        examination: &'a CheckInput,
    ) -> BoxFuture<'a, Result<NodeCheckFindings, NodeCheckError>> {
        async move { Ok(evaluate_samples(&self.query().await?, &self.settings, examination)) }
            .boxed()
    }
}

/// Evaluates the samples. A sample whose value cannot be compared, such as `NaN`, excludes no node.
fn evaluate_samples(
    samples: &[Sample],
    settings: &PrometheusSettings,
    examination: &CheckInput,
) -> NodeCheckFindings {
    let mut names: HashMap<&str, &str> = HashMap::new();
    for node in &examination.nodes {
        node.addresses.iter().for_each(|address| {
            names.insert(address, &node.name);
        });
    }
    // A node's name takes precedence over the address of another node.
    examination.nodes.iter().for_each(|node| {
        names.insert(&node.name, &node.name);
    });
    let (mut findings, mut unlabelled) = (NodeCheckFindings::default(), 0_usize);
    for sample in samples {
        let Some(label) = sample.metric.get(&settings.label) else {
            unlabelled = unlabelled.saturating_add(1);
            continue;
        };
        let host = label
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map(|(host, _)| host);
        let node = names.get(label.as_str()).or_else(|| names.get(host?.trim_matches(['[', ']'])));
        let crossed = sample.value.1.parse().is_ok_and(|value| settings.threshold.matches(value));
        if let (Some(node), true) = (node, crossed) {
            findings.ignored.insert((*node).to_owned(), REASON.into());
        }
    }
    let most = (examination.nodes.len().saturating_mul(settings.max_ignored.into()) / 100)
        .max(MIN_EXCLUDABLE);
    if findings.ignored.len() > most {
        let said = format!(
            "samples match {} of {} nodes, at most {most} may be excluded (--prometheus-max-ignored): none was",
            findings.ignored.len(),
            examination.nodes.len()
        );
        findings.ignored.clear();
        findings.unchecked.push(said);
    }
    if unlabelled > 0 {
        findings.unchecked.push(format!("{unlabelled} samples have no label {}", settings.label));
    }
    findings
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::node_checks::NodeCandidate;

    fn settings(threshold: &str) -> PrometheusSettings {
        PrometheusSettings {
            url: "http://127.0.0.1:9".into(),
            query: "up".into(),
            threshold: threshold.parse().unwrap(),
            label: "instance".into(),
            token_file: None,
            max_ignored: 50,
        }
    }

    fn examination() -> CheckInput {
        let node = |name: &str, address: &str| NodeCandidate {
            name: name.into(),
            addresses: vec![address.into()],
            ..NodeCandidate::default()
        };
        CheckInput {
            nodes: vec![node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("c", "fd00::3")],
            ..CheckInput::default()
        }
    }

    fn sample(instance: &str, value: &str) -> Sample {
        Sample {
            metric: [("instance".to_owned(), instance.to_owned())].into(),
            value: (0.0, value.into()),
        }
    }

    #[rstest]
    #[case(">0.9", "1", true)]
    #[case(">0.9", "0.9", false)]
    #[case(">=0.9", "0.9", true)]
    #[case("<1", "0", true)]
    #[case("<= 1", "1", true)]
    #[case(">0.9", "NaN", false)]
    #[case(">0.9", "nonsense", false)]
    fn thresholds(#[case] threshold: &str, #[case] value: &str, #[case] ignored: bool) {
        let found = evaluate_samples(&[sample("a", value)], &settings(threshold), &examination());
        assert_eq!(found.ignored.contains_key("a"), ignored);
    }

    #[rstest]
    #[case("")]
    #[case("0.9")]
    #[case(">")]
    #[case(">x")]
    #[case(">inf")]
    fn rejects_invalid_thresholds(#[case] text: &str) {
        assert!(text.parse::<Threshold>().is_err());
    }

    #[test]
    fn nodes_are_found_by_name_and_address() {
        let samples = [
            sample("a:9100", "1"),
            sample("10.0.0.2:9100", "1"),
            sample("[fd00::3]:9100", "1"),
            sample("x", "1"),
        ];
        let found = evaluate_samples(&samples, &settings(">0"), &examination());
        assert_eq!(found.ignored.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(found.unchecked, Vec::<String>::new());
    }

    /// An exporter of a tenant can name every node if its labels are honoured (`honor_labels`).
    #[test]
    fn samples_beyond_max_ignored_are_rejected() {
        let node =
            |index: usize| NodeCandidate { name: format!("n{index}"), ..NodeCandidate::default() };
        let examination =
            CheckInput { nodes: (0..10).map(node).collect(), ..CheckInput::default() };
        let samples = |count: usize| {
            (0..count).map(|index| sample(&format!("n{index}"), "1")).collect::<Vec<_>>()
        };
        assert_eq!(evaluate_samples(&samples(5), &settings(">0"), &examination).ignored.len(), 5);
        let most = evaluate_samples(&samples(6), &settings(">0"), &examination);
        assert!(
            most.ignored.is_empty() && most.unchecked[0].contains("6 of 10 nodes"),
            "{:?}",
            most.unchecked
        );
        let all = PrometheusSettings { max_ignored: 100, ..settings(">0") };
        assert_eq!(evaluate_samples(&samples(10), &all, &examination).ignored.len(), 10);
    }

    #[tokio::test]
    async fn response_size_is_limited() {
        let body = || async {
            let piece = axum::body::Bytes::from(vec![b' '; 1 << 20]);
            axum::body::Body::from_stream(futures::stream::repeat_with(move || {
                Ok::<_, std::io::Error>(piece.clone())
            }))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/api/v1/query", axum::routing::get(body));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let check = PrometheusCheck::new(PrometheusSettings { url, ..settings(">0") }).unwrap();
        let error = check.query().await.err().unwrap();
        assert_eq!(error.to_string(), "the response has more than 16 MiB");
        server.abort();
    }

    #[test]
    fn samples_without_the_label_are_counted() {
        let found = evaluate_samples(
            &[Sample { metric: HashMap::new(), value: (0.0, "1".into()) }],
            &settings(">0"),
            &examination(),
        );
        assert_eq!(found.unchecked, ["1 samples have no label instance"]);
    }
}
