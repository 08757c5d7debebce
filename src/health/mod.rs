//! Opinions on nodes beyond what the Node object says of itself.
//!
//! In: the images of a task and the nodes that could take them. Out: the nodes
//! to leave out, with reasons, and what could not be found out. A check that
//! fails has no opinion: it never holds up a task. May call `egress`, `image`,
//! `metrics`, `node` and `task`.
//!
//! A further kind of check is a further implementation of [`Check`].

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod disk;
mod distribution;
mod prometheus;
mod registry;
mod survey;

use std::time::Duration;

use futures::future::{BoxFuture, join_all};

pub use disk::{DiskCheck, DiskSettings};
pub use distribution::LookupError;
pub use prometheus::{PrometheusCheck, PrometheusSettings, Threshold};
pub use registry::{ImageFacts, Registries};
pub use survey::Survey;

use crate::{image::Reference, node::Facts, task::plan::Findings};

/// A check that takes longer has no opinion: a task that waits for it warms nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Characters that one finding may have, and how many findings there may be: they go into an object of the API server.
const MAX_FINDING: usize = 200;
const MAX_FINDINGS: usize = 10;

/// A node that could take the images, as far as its own object says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its addresses and host name.
    pub addresses: Vec<String>,
    /// Its architecture, such as `amd64`; empty where not reported.
    pub architecture: String,
    /// Room for images and containers, in bytes; 0 where not reported.
    pub storage: u64,
    /// What the images that it reports take, in bytes.
    pub images_size: u64,
    /// Thousandths of processors for pods.
    pub cpu_millis: u64,
    /// Memory for pods, in bytes.
    pub memory: u64,
    /// How many pods it takes.
    pub pods: u64,
}

impl From<&Facts> for Candidate {
    fn from(node: &Facts) -> Self {
        Self {
            name: node.name.clone(),
            addresses: node.addresses.iter().map(std::string::ToString::to_string).collect(),
            architecture: node.architecture.to_string(),
            storage: node.storage,
            images_size: node.images_size,
            cpu_millis: node.cpu_millis,
            memory: node.memory,
            pods: node.pods,
        }
    }
}

/// What is to be examined.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examination {
    /// The images of a task.
    pub images: Vec<Reference>,
    /// The nodes that could take them.
    pub nodes: Vec<Candidate>,
    /// The task's namespace, where it wants fewer nodes than these: then the best are to be found.
    pub choose_for: Option<String>,
}

/// One kind of check.
pub trait Check: Send + Sync {
    /// For people, at the beginning of what could not be found out.
    fn name(&self) -> &'static str;
    /// Which nodes to leave out. An error means no opinion.
    fn examine<'a>(&'a self, examination: &'a Examination) -> BoxFuture<'a, Result<Findings, String>>;
}

/// All checks that are set up.
#[derive(Default)]
pub struct Checks(Vec<Box<dyn Check>>);

impl Checks {
    /// These checks, in the order in which their reasons count.
    #[must_use]
    pub fn new(checks: Vec<Box<dyn Check>>) -> Self {
        Self(checks)
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks all checks at once.
    pub async fn examine(&self, examination: &Examination) -> Findings {
        let opinions = join_all(self.0.iter().map(|check| async move {
            let answer = tokio::time::timeout(PATIENCE, check.examine(examination)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
            (check.name(), answer)
        }));
        let mut all = Findings::default();
        for (name, opinion) in opinions.await {
            match opinion {
                Ok(found) => {
                    for (node, reason) in found.ignored {
                        all.ignored.entry(node).or_insert(reason);
                    }
                    all.rank.extend(found.rank);
                    all.unchecked.extend(found.unchecked.into_iter().map(|what| format!("{name}: {what}")));
                }
                Err(why) => all.unchecked.push(format!("{name}: {why}")),
            }
        }
        bound(&mut all.unchecked);
        all
    }
}

/// Bounds what could not be found out, in number and in length. *Pure.*
fn bound(unchecked: &mut Vec<String>) {
    let more = unchecked.len().saturating_sub(MAX_FINDINGS);
    unchecked.truncate(MAX_FINDINGS);
    for text in unchecked.iter_mut() {
        *text = clipped(text, MAX_FINDING);
    }
    if more > 0 {
        unchecked.push(format!("and {more} more"));
    }
}

/// The first characters of a text, without control characters. *Pure.*
fn clipped(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= most {
        return text.chars().map(clean).collect();
    }
    let kept = text.chars().take(most.saturating_sub(3)).map(clean);
    kept.chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    struct Fixed(&'static str, Result<&'static str, &'static str>);

    impl Check for Fixed {
        fn name(&self) -> &'static str {
            self.0
        }

        fn examine<'a>(&'a self, _: &'a Examination) -> BoxFuture<'a, Result<Findings, String>> {
            let found = |reason: &str| Findings {
                ignored: [("n1".to_owned(), reason.to_owned())].into(),
                unchecked: vec!["half of it".into()],
                ..Findings::default()
            };
            let answer = self.1.map(found).map_err(str::to_owned);
            async move { answer }.boxed()
        }
    }

    struct Silent;

    impl Check for Silent {
        fn name(&self) -> &'static str {
            "Silent"
        }

        fn examine<'a>(&'a self, _: &'a Examination) -> BoxFuture<'a, Result<Findings, String>> {
            futures::future::pending().boxed()
        }
    }

    #[test]
    fn what_could_not_be_found_out_is_bounded() {
        let mut unchecked = vec!["é".repeat(2_000_000), "a\nb".into()];
        unchecked.extend((0..50).map(|n| n.to_string()));
        bound(&mut unchecked);
        assert_eq!((unchecked.len(), unchecked[1].as_str()), (11, "a b"));
        assert!(unchecked.iter().all(|text| text.chars().count() <= MAX_FINDING));
        assert_eq!(unchecked[10], "and 42 more");
    }

    #[tokio::test(start_paused = true)]
    async fn opinions_add_up_and_silence_is_none() {
        let checks = Checks::new(vec![
            Box::new(Fixed("A", Ok("First"))),
            Box::new(Fixed("B", Ok("Second"))),
            Box::new(Fixed("C", Err("broken"))),
            Box::new(Silent),
        ]);
        let findings = checks.examine(&Examination::default()).await;
        assert_eq!(findings.ignored["n1"], "First");
        let expected = ["A: half of it", "B: half of it", "C: broken", "Silent: no answer within 20 s"];
        assert_eq!(findings.unchecked, expected);
    }
}
