//! Tells what is to be told, until everybody was told or a day has passed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    message::message,
    post::{Failure, Poster},
};
use crate::{
    catalog::Catalog,
    metrics::Metrics,
    supervise::{Work, contained},
    task::{Delivery, Notification, PrewarmTask, SecretKeyReference},
};

/// The first pause between tries; it doubles up to [`LONGEST`].
const FIRST: SignedDuration = SignedDuration::from_secs(5);
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// After that the end of a task is no news.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);
/// The key of a Secret that signs.
const SECRET_KEY: &str = "key";
/// Tasks told of at once.
const CONCURRENCY: usize = 16;
/// The pause after what was told could not be written down.
const UNWRITTEN: Duration = Duration::from_secs(60);
/// Something may be due this often even without news.
const LOOK: Duration = Duration::from_secs(5);

/// Tells until `stop`. The catalog must have its first list.
pub async fn run(client: Client, catalog: Catalog, poster: Poster, metrics: Arc<Metrics>, stop: CancellationToken) {
    let teller = Arc::new(Teller { client, poster, metrics: Arc::clone(&metrics) });
    let mut news = catalog.news();
    let (mut busy, mut at_work) = (HashSet::new(), JoinSet::new());
    loop {
        for task in catalog.to_be_told() {
            let uid = task.uid().unwrap_or_default();
            if at_work.len() < CONCURRENCY && has_due(&task, Timestamp::now()) && busy.insert(uid.clone()) {
                let (teller, catalog) = (Arc::clone(&teller), catalog.clone());
                at_work.spawn(async move {
                    if teller.tell(&task, &catalog).await.is_err() {
                        // What is not written down would be told again at once.
                        tokio::time::sleep(UNWRITTEN).await;
                    }
                    uid
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = at_work.join_next() => {
                match done {
                    Ok(uid) => drop(busy.remove(&uid)),
                    // The task stays busy, and so is left alone by this leader.
                    Err(error) if error.is_panic() => {
                        contained(&metrics, Work::Notification, "a task's end", error.into_panic().as_ref());
                    }
                    Err(_) => {}
                }
            }
            _ = news.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn delivery(task: &PrewarmTask, index: usize) -> Delivery {
    task.status.as_ref().and_then(|status| status.notifications.get(index)).cloned().unwrap_or_default()
}

fn is_due(delivery: &Delivery, now: Timestamp) -> bool {
    let next = delivery.next_attempt.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    !delivery.done && next.is_none_or(|next| next <= now)
}

fn has_due(task: &PrewarmTask, now: Timestamp) -> bool {
    (0..task.spec.notify.iter().flatten().count()).any(|index| is_due(&delivery(task, index), now))
}

/// Returns what logs say of an address: its host alone, for the rest may be a credential. *Pure.*
fn host_of(whom: &Notification) -> String {
    if whom.url_from.is_some() {
        return "(from a Secret)".into();
    }
    let url = whom.url.as_deref().and_then(|url| url.parse::<reqwest::Url>().ok());
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// How a delivery stands after a try. *Pure.*
fn after(before: &Delivery, result: Result<(), Failure>, ended: Timestamp, now: Timestamp) -> Delivery {
    let attempts = before.attempts + 1;
    let at = |time: Timestamp| Some(Timestamp::from_second(time.as_second()).unwrap_or(time).to_string());
    let (why, last) = match result {
        Ok(()) => {
            return Delivery { done: true, attempts, delivered: at(now), ..Delivery::default() };
        }
        Err(Failure::Passing(why)) => (why, false),
        Err(Failure::Final(why)) => (why, true),
    };
    let pause = FIRST.saturating_mul(1 << (attempts - 1).min(20)).min(LONGEST);
    let next = now.checked_add(pause).unwrap_or(Timestamp::MAX);
    let done = last || next.duration_since(ended) > GIVE_UP;
    Delivery { done, attempts, next_attempt: at(next).filter(|_| !done), message: Some(why), ..Delivery::default() }
}

struct Teller {
    client: Client,
    poster: Poster,
    metrics: Arc<Metrics>,
}

impl Teller {
    /// Tells whom it is due to. An error means that this could not be written down, and was logged.
    async fn tell(&self, task: &PrewarmTask, catalog: &Catalog) -> Result<(), ()> {
        let whom = task.spec.notify.iter().flatten().enumerate();
        let tries = whom.map(|(index, one)| self.try_one(task, index, one));
        let deliveries = future::join_all(tries).await;
        self.metrics.kube_requests.with_label_values(&["patch", "prewarmtasks"]).inc();
        let tasks = Api::<PrewarmTask>::namespaced(self.client.clone(), &task.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"metadata": {"uid": task.uid()}, "status": {"notifications": deliveries}}));
        match tasks.patch_status(&task.name_any(), &PatchParams::default(), &patch).await {
            Ok(task) => catalog.put(&task),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                let name = task.name_any();
                tracing::warn!(task = name, %error, "what was told could not be written down: it is told again");
                return Err(());
            }
        }
        Ok(())
    }

    async fn try_one(&self, task: &PrewarmTask, index: usize, whom: &Notification) -> Delivery {
        let before = delivery(task, index);
        let now = Timestamp::now();
        if !is_due(&before, now) {
            return before;
        }
        let result = self.send(task, index, whom, now).await;
        let (name, namespace, host) = (task.name_any(), task.namespace(), host_of(whom));
        let ended =
            task.status.as_ref().and_then(|status| status.completion_time.as_deref()?.parse().ok()).unwrap_or(now);
        let why = result.clone().err();
        let delivery = after(&before, result, ended, Timestamp::now());
        let count = |result: &str| self.metrics.notifications.with_label_values(&[result]).inc();
        match why {
            None => {
                count("delivered");
                tracing::info!(task = name, namespace, host, "the end of the task was told");
            }
            Some(Failure::Passing(why) | Failure::Final(why)) => {
                count(if delivery.done { "given_up" } else { "failed" });
                let next = delivery.next_attempt.as_deref().unwrap_or("never");
                tracing::warn!(task = name, namespace, host, why, next, "the end of the task could not be told");
            }
        }
        delivery
    }

    async fn send(&self, task: &PrewarmTask, index: usize, whom: &Notification, now: Timestamp) -> Result<(), Failure> {
        let id = format!("{}-{index}", task.uid().unwrap_or_default());
        let format = whom.format.as_deref().unwrap_or("json");
        let key = match &whom.secret_ref {
            Some(secret) => Some(self.secret(&task.namespace().unwrap_or_default(), &secret.name, SECRET_KEY).await?),
            None => None,
        };
        let told = message(format, task, &id);
        let address = self.address(&task.namespace().unwrap_or_default(), whom).await?;
        self.poster.post(&address, format, &id, &told, key.as_deref(), now.as_millisecond()).await
    }

    /// Returns the address of a notification, read from its Secret where the spec says so.
    async fn address(&self, namespace: &str, whom: &Notification) -> Result<String, Failure> {
        if let Some(source) = &whom.url_from {
            let SecretKeyReference { name, key } = &source.secret_key_ref;
            let value = self.secret(namespace, name, key).await?;
            // The value is not repeated: whoever reads the status need not be allowed to read the Secret.
            return String::from_utf8(value)
                .map(|text| text.trim().to_owned())
                .map_err(|_| Failure::Passing(format!("the key {key} of the Secret {name} is no text")));
        }
        Ok(whom.url.clone().unwrap_or_default())
    }

    /// Reads a key of a Secret of the task's own namespace. A missing permission may pass: it can be granted.
    async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, Failure> {
        self.metrics.kube_requests.with_label_values(&["get", "secrets"]).inc();
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret =
            secrets.get(name).await.map_err(|error| Failure::Passing(format!("the Secret {name}: {error}")))?;
        let value = secret.data.unwrap_or_default().remove(key);
        value.map(|value| value.0).ok_or_else(|| Failure::Passing(format!("the Secret {name} has no key named {key}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_tries() {
        let ended: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let (mut delivery, mut now) = (Delivery::default(), ended);
        while !delivery.done {
            assert!(is_due(&delivery, now));
            delivery = after(&delivery, Err(Failure::Passing("busy".into())), ended, now);
            if let Some(next) = &delivery.next_attempt {
                let next: Timestamp = next.parse().unwrap();
                assert!(!is_due(&delivery, now) && next > now);
                now = next;
            }
        }
        assert!(now.duration_since(ended) <= GIVE_UP && now.duration_since(ended) > GIVE_UP - LONGEST);
        // 5 s doubled ten times is more than an hour; after these 85 minutes one an hour.
        assert_eq!(delivery.attempts, 33);
        assert_eq!(delivery.message.as_deref(), Some("busy"));
    }

    #[test]
    fn ends() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let told = after(&Delivery::default(), Ok(()), now, now);
        assert!(told.done && told.delivered.is_some() && told.message.is_none());
        let never = after(&Delivery::default(), Err(Failure::Final("gone".into())), now, now);
        assert!(never.done && never.delivered.is_none() && never.next_attempt.is_none());
    }
}
