//! Nodes that a Prometheus query speaks against.
//!
//! The operator alone chooses the address, which nearly always is a Service of the cluster: `egress` has no say.

use std::{collections::HashMap, path::PathBuf, str::FromStr, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use serde::Deserialize;

use super::{Check, Examination};
use crate::task::plan::Findings;

/// Prometheus is to answer within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read: 10,000 nodes with 300 bytes each are 3 MB, and a query may bring further labels.
const MAX_ANSWER: usize = 16 << 20;
/// So many nodes may be left out whatever their share is: of a small task, or in a small cluster, a few bad nodes are many.
const ALWAYS: usize = 3;
/// The word in a task's `ignoredNodes`.
const REASON: &str = "Unhealthy";

/// When a sample's value speaks against its node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Above the number.
    Above(f64),
    /// At the number or above.
    AtLeast(f64),
    /// Below the number.
    Below(f64),
    /// At the number or below.
    AtMost(f64),
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |rest: &str| rest.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let parsed = if let Some(rest) = text.strip_prefix(">=") {
            number(rest).map(Self::AtLeast)
        } else if let Some(rest) = text.strip_prefix("<=") {
            number(rest).map(Self::AtMost)
        } else if let Some(rest) = text.strip_prefix('>') {
            number(rest).map(Self::Above)
        } else {
            text.strip_prefix('<').and_then(number).map(Self::Below)
        };
        parsed.ok_or_else(|| "expected >, >=, < or <= and a number, such as >0.9".into())
    }
}

impl Threshold {
    fn is_crossed(self, value: f64) -> bool {
        match self {
            Self::Above(bound) => value > bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// Which Prometheus is asked what.
#[derive(Debug, Clone, PartialEq)]
pub struct PrometheusSettings {
    /// Its address, such as `http://prometheus.monitoring:9090`.
    pub url: String,
    /// Any `PromQL` that gives one sample per node.
    pub query: String,
    /// When a sample speaks against its node.
    pub threshold: Threshold,
    /// The label that names the node: by name, host name or address, with or without a port.
    pub label: String,
    /// A bearer token, read anew for each query.
    pub token_file: Option<PathBuf>,
    /// The share of nodes, in percent, that samples may speak against. More is taken for a fault of the monitoring, or for
    /// forged samples: whoever is scraped chooses the labels of his samples.
    pub max_ignored: u8,
}

/// Asks Prometheus.
pub struct PrometheusCheck {
    settings: PrometheusSettings,
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Sample {
    metric: HashMap<String, String>,
    value: (f64, String),
}

impl PrometheusCheck {
    /// A check with these settings. An error means that no HTTP client can be made on this machine.
    pub fn new(settings: PrometheusSettings) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { settings, client })
    }

    async fn ask(&self) -> Result<Vec<Sample>, String> {
        let url = format!("{}/api/v1/query", self.settings.url.trim_end_matches('/'));
        let mut url = reqwest::Url::parse(&url).map_err(|error| format!("{url}: {error}"))?;
        url.query_pairs_mut().append_pair("query", &self.settings.query);
        let mut request = self.client.get(url);
        if let Some(file) = &self.settings.token_file {
            let token =
                tokio::fs::read_to_string(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.send().await.map_err(|error| explain(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| explain(&error))? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(format!("the answer has more than {} MiB", MAX_ANSWER >> 20));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| format!("HTTP {status}, and no answer of Prometheus"))?;
        let data = answer.data.ok_or_else(|| answer.error.unwrap_or_else(|| format!("HTTP {status}")))?;
        if data.result_type != "vector" {
            return Err(format!("the query gives a {}: it must give one sample per node", data.result_type));
        }
        serde_json::from_value(data.result).map_err(|error| error.to_string())
    }
}

/// The innermost cause says what happened; the outer ones repeat the address.
fn explain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl Check for PrometheusCheck {
    fn name(&self) -> &'static str {
        "Prometheus"
    }

    fn examine<'a>(&'a self, examination: &'a Examination) -> BoxFuture<'a, Result<Findings, String>> {
        async move { Ok(judge(&self.ask().await?, &self.settings, examination)) }.boxed()
    }
}

/// A sample whose value cannot be compared, such as `NaN`, speaks against nobody.
fn judge(samples: &[Sample], settings: &PrometheusSettings, examination: &Examination) -> Findings {
    let mut names: HashMap<&str, &str> = HashMap::new();
    for node in &examination.nodes {
        node.addresses.iter().for_each(|address| {
            names.insert(address, &node.name);
        });
    }
    // A node's own name wins over another's address.
    examination.nodes.iter().for_each(|node| {
        names.insert(&node.name, &node.name);
    });
    let (mut findings, mut strangers) = (Findings::default(), 0_usize);
    for sample in samples {
        let Some(label) = sample.metric.get(&settings.label) else {
            strangers = strangers.saturating_add(1);
            continue;
        };
        let host =
            label.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map(|(host, _)| host);
        let node = names.get(label.as_str()).or_else(|| names.get(host?.trim_matches(['[', ']'])));
        let crossed = sample.value.1.parse().is_ok_and(|value| settings.threshold.is_crossed(value));
        if let (Some(node), true) = (node, crossed) {
            findings.ignored.insert((*node).to_owned(), REASON.into());
        }
    }
    let most = (examination.nodes.len().saturating_mul(settings.max_ignored.into()) / 100).max(ALWAYS);
    if findings.ignored.len() > most {
        let said = format!(
            "samples speak against {} of {} nodes, and at most {most} are left out (--prometheus-max-ignored): none was",
            findings.ignored.len(),
            examination.nodes.len()
        );
        findings.ignored.clear();
        findings.unchecked.push(said);
    }
    if strangers > 0 {
        findings.unchecked.push(format!("{strangers} samples have no label {}", settings.label));
    }
    findings
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::health::Candidate;

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

    fn examination() -> Examination {
        let node = |name: &str, address: &str| Candidate {
            name: name.into(),
            addresses: vec![address.into()],
            ..Candidate::default()
        };
        Examination {
            nodes: vec![node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("c", "fd00::3")],
            ..Examination::default()
        }
    }

    fn sample(instance: &str, value: &str) -> Sample {
        Sample { metric: [("instance".to_owned(), instance.to_owned())].into(), value: (0.0, value.into()) }
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
        let found = judge(&[sample("a", value)], &settings(threshold), &examination());
        assert_eq!(found.ignored.contains_key("a"), ignored);
    }

    #[rstest]
    #[case("")]
    #[case("0.9")]
    #[case(">")]
    #[case(">x")]
    #[case(">inf")]
    fn no_thresholds(#[case] text: &str) {
        assert!(text.parse::<Threshold>().is_err());
    }

    #[test]
    fn nodes_are_found_by_name_and_address() {
        let samples =
            [sample("a:9100", "1"), sample("10.0.0.2:9100", "1"), sample("[fd00::3]:9100", "1"), sample("x", "1")];
        let found = judge(&samples, &settings(">0"), &examination());
        assert_eq!(found.ignored.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(found.unchecked, Vec::<String>::new());
    }

    /// A tenant's exporter may name every node, where its labels are honoured.
    #[test]
    fn samples_against_most_nodes_are_not_believed() {
        let node = |index: usize| Candidate { name: format!("n{index}"), ..Candidate::default() };
        let examination = Examination { nodes: (0..10).map(node).collect(), ..Examination::default() };
        let samples = |count: usize| (0..count).map(|index| sample(&format!("n{index}"), "1")).collect::<Vec<_>>();
        assert_eq!(judge(&samples(5), &settings(">0"), &examination).ignored.len(), 5);
        let most = judge(&samples(6), &settings(">0"), &examination);
        assert!(most.ignored.is_empty() && most.unchecked[0].contains("6 of 10 nodes"), "{:?}", most.unchecked);
        let all = PrometheusSettings { max_ignored: 100, ..settings(">0") };
        assert_eq!(judge(&samples(10), &all, &examination).ignored.len(), 10);
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_not_read() {
        let body = || async {
            let piece = axum::body::Bytes::from(vec![b' '; 1 << 20]);
            axum::body::Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/api/v1/query", axum::routing::get(body));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let check = PrometheusCheck::new(PrometheusSettings { url, ..settings(">0") }).unwrap();
        assert_eq!(check.ask().await.err().unwrap(), "the answer has more than 16 MiB");
        server.abort();
    }

    #[test]
    fn samples_without_the_label_are_counted() {
        let found =
            judge(&[Sample { metric: HashMap::new(), value: (0.0, "1".into()) }], &settings(">0"), &examination());
        assert_eq!(found.unchecked, ["1 samples have no label instance"]);
    }
}
