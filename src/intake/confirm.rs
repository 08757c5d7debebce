//! Whether what was admitted was stored: another webhook may have refused it, or changed it.

use std::time::Duration;

use kube::{
    Client, Resource,
    api::GetParams,
    core::{DynamicObject, Request},
};
use tokio::time::Instant;

use super::Hint;
use crate::{metrics::Metrics, surroundings::Surroundings, workload::Policy};

/// The object is looked for this often after it was admitted, in milliseconds: 31 s in all, because a webhook that is asked
/// beside us may take 30 s.
const LOOKS_MS: [u64; 8] = [0, 250, 750, 1500, 3500, 6000, 9000, 10_000];
/// Longest name of an object.
const MAX_NAME: usize = 253;
/// One look may take this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A hint whose object is to be looked for.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) hint: Hint,
    looks: usize,
    pub(super) due: Instant,
}

impl Pending {
    pub(super) fn new(hint: Hint, now: Instant) -> Self {
        Self { hint, looks: 0, due: now }
    }

    /// The next look, if there is to be one.
    fn later(self, now: Instant) -> Option<Self> {
        let pause = LOOKS_MS.get(self.looks + 1)?;
        Some(Self { due: now + Duration::from_millis(*pause), looks: self.looks + 1, hint: self.hint })
    }
}

/// What a look gave.
#[derive(Debug)]
pub(super) enum Look {
    /// The object is there, and asks for this.
    Stored(Hint),
    /// Not yet.
    Later(Pending),
    /// It never came, or asks for nothing any more.
    Gone,
}

/// What is needed to look.
#[derive(Clone)]
pub(super) struct Eyes {
    pub(super) client: Client,
    pub(super) policy: std::sync::Arc<Policy>,
    pub(super) around: Surroundings,
    pub(super) metrics: std::sync::Arc<Metrics>,
}

/// Looks for the object. Where we may not read it, the hint counts as it is.
pub(super) async fn look(eyes: &Eyes, pending: Pending) -> Look {
    if pending.hint.stored || pending.hint.name.is_empty() {
        return Look::Stored(pending.hint);
    }
    if !is_name(&pending.hint.name) || !is_name(&pending.hint.namespace) {
        return Look::Gone;
    }
    eyes.metrics.kube_requests.with_label_values(&["get", &pending.hint.kind.plural]).inc();
    let answer = tokio::time::timeout(PATIENCE, get(eyes, &pending.hint)).await;
    match answer {
        Ok(Ok(text)) => seen(eyes, pending, &text),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            tracing::warn!(error = status.message, "an admitted object may not be read; its hint counts as it is");
            Look::Stored(pending.hint)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, name = pending.hint.name, "an admitted object is not there yet");
            later(eyes, pending)
        }
        Err(_) => later(eyes, pending),
    }
}

/// Whether the text can be the name of an object: what a forged review names must not lead elsewhere in the API server.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(plain) && !text.contains("..")
}

async fn get(eyes: &Eyes, hint: &Hint) -> kube::Result<String> {
    let Hint { kind, namespace, name, .. } = hint;
    let url = DynamicObject::url_path(&kind.resource(), Some(namespace));
    let request = Request::new(url).get(name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    eyes.client.request_text(request).await
}

fn later(eyes: &Eyes, pending: Pending) -> Look {
    pending.later(Instant::now()).map_or_else(
        || {
            eyes.metrics.hints.with_label_values(&["not_stored"]).inc();
            Look::Gone
        },
        Look::Later,
    )
}

/// What is stored counts, not what was admitted: a webhook after us may have changed it.
fn seen(eyes: &Eyes, pending: Pending, text: &str) -> Look {
    let hint = &pending.hint;
    let Ok(object) = hint.kind.read(text) else { return Look::Gone };
    let metadata = &object.metadata;
    let other = !hint.uid.is_empty() && hint.uid != metadata.uid;
    let old = hint.replaces.as_ref().is_some_and(|version| *version == metadata.resource_version);
    if other || old {
        return later(eyes, pending);
    }
    let (verdict, _) = eyes.policy.consider(&hint.kind, &object, &hint.namespace, &eyes.around);
    let workloads = verdict.workloads();
    if workloads.is_empty() { Look::Gone } else { Look::Stored(pending.hint.as_stored(workloads)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        assert!(is_name("web-1.shop"));
        for text in ["", "..", "../secrets/x", "a/b", "a?b", "a%2fb", "Web", &"a".repeat(254)] {
            assert!(!is_name(text), "{text}");
        }
    }

    #[test]
    fn looks_go_on_for_longer_than_a_webhook_may_take() {
        assert!(LOOKS_MS.iter().sum::<u64>() > 30_000);
    }
}
