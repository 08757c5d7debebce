//! Sends the notifications that are due, until each was taken or is given up.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    post::{Failure, Post, Poster},
    slots::{Slots, TASKS, choose},
};
use crate::{
    catalog::Catalog,
    metrics::Metrics,
    supervise::{Work as Guarded, contained},
    task::{Delivery, Notification, PrewarmTask, SecretKeyReference},
};

/// The first pause between tries; it doubles up to [`LONGEST`].
const FIRST: SignedDuration = SignedDuration::from_secs(5);
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// After that the end of a task is no news.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);
/// The pauses where no try was ever answered: 5 tries within 71 minutes instead of 33 within a day. A receiver that was
/// restarted is still found, and an address that nobody listens at is not tried for long.
const UNANSWERED: [SignedDuration; 4] = [
    SignedDuration::from_secs(10),
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_hours(1),
];
/// Receivers remembered that have answered since this replica leads; above it all are forgotten.
const MAX_ANSWERED: usize = 10_000;
/// The key of a Secret that signs.
const SECRET_KEY: &str = "key";
/// The pause after a status that could not be written: it would be sent again at once.
const UNWRITTEN: Duration = Duration::from_secs(60);
/// Something may be due this often even without news.
const LOOK: Duration = Duration::from_secs(5);
/// Changes of tasks that arrive this close together are looked at once.
const GATHER: Duration = Duration::from_millis(100);

/// Sends until `stop`. The catalog must have its first list. `per_minute`: messages of one namespace.
pub async fn run(
    client: Client,
    catalog: Catalog,
    poster: Poster,
    per_minute: NonZeroU32,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let sender = Arc::new(Sender {
        client,
        poster,
        metrics: Arc::clone(&metrics),
        slots: Slots::new(per_minute),
        answered: Mutex::default(),
    });
    let mut news = catalog.news();
    let mut work = Work::default();
    loop {
        let now = Timestamp::now();
        let mut due: Vec<Arc<PrewarmTask>> = catalog.to_be_told();
        due.retain(|task| has_due(task, now) && !work.has(task));
        // What was not tried yet goes before what has failed.
        due.sort_by_cached_key(|task| fewest_attempts(task, now));
        for task in work.choose(&due) {
            work.begin(&task);
            let (sender, catalog) = (Arc::clone(&sender), catalog.clone());
            work.tasks.spawn(async move {
                if sender.send_due(&task, &catalog).await.is_err() {
                    tokio::time::sleep(UNWRITTEN).await;
                }
                task
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = work.tasks.join_next() => match done {
                Ok(task) => work.end(&task),
                // The task stays among those at work, and so is left alone by this leader.
                Err(error) if error.is_panic() => {
                    contained(&metrics, Guarded::Notification, "a task's end", error.into_panic().as_ref());
                }
                Err(error) => tracing::error!(%error, "sending the notifications of a task has failed"),
            },
            _ = news.changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The tasks whose notifications are being sent.
#[derive(Default)]
struct Work {
    uids: HashSet<String>,
    namespaces: HashMap<String, usize>,
    last: String,
    tasks: JoinSet<Arc<PrewarmTask>>,
}

impl Work {
    fn has(&self, task: &PrewarmTask) -> bool {
        task.metadata.uid.as_ref().is_some_and(|uid| self.uids.contains(uid))
    }

    fn choose(&self, due: &[Arc<PrewarmTask>]) -> Vec<Arc<PrewarmTask>> {
        let namespaces = due.iter().map(|task| task.namespace().unwrap_or_default());
        let room = TASKS.saturating_sub(self.uids.len());
        let chosen = choose(namespaces, &self.namespaces, &self.last, room);
        chosen.into_iter().filter_map(|index| due.get(index).cloned()).collect()
    }

    fn begin(&mut self, task: &PrewarmTask) {
        let namespace = task.namespace().unwrap_or_default();
        let many = self.namespaces.entry(namespace.clone()).or_default();
        *many = many.saturating_add(1);
        self.uids.insert(task.uid().unwrap_or_default());
        self.last = namespace;
    }

    fn end(&mut self, task: &PrewarmTask) {
        self.uids.remove(&task.uid().unwrap_or_default());
        let namespace = task.namespace().unwrap_or_default();
        if let Some(many) = self.namespaces.get_mut(&namespace) {
            *many = many.saturating_sub(1);
            if *many == 0 {
                self.namespaces.remove(&namespace);
            }
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

fn due(task: &PrewarmTask, now: Timestamp) -> impl Iterator<Item = Delivery> + '_ {
    let all = 0..task.spec.notify.iter().flatten().count();
    all.map(|index| delivery(task, index)).filter(move |delivery| is_due(delivery, now))
}

fn has_due(task: &PrewarmTask, now: Timestamp) -> bool {
    due(task, now).next().is_some()
}

fn fewest_attempts(task: &PrewarmTask, now: Timestamp) -> u32 {
    due(task, now).map(|delivery| delivery.attempts).min().unwrap_or(u32::MAX)
}

/// Returns the receiver of an address for limits and logs: its host alone, for the rest may be a credential. *Pure.*
fn host_of(address: &str) -> String {
    let url = address.parse::<reqwest::Url>().ok();
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// How a delivery stands after a try. `answers`: the receiver is known to answer. *Pure.*
fn after(before: &Delivery, result: Result<(), &Failure>, answers: bool, ended: Timestamp, now: Timestamp) -> Delivery {
    let attempts = before.attempts.saturating_add(1);
    let at = |time: Timestamp| Some(Timestamp::from_second(time.as_second()).unwrap_or(time).to_string());
    let failure = match result {
        Ok(()) => {
            return Delivery { done: true, attempts, answered: true, delivered: at(now), ..Delivery::default() };
        }
        Err(failure) => failure,
    };
    let answered = before.answered || failure.is_answer();
    let tries = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let pause = if failure.is_silence() && !answered && !answers {
        UNANSWERED.get(tries).copied()
    } else {
        let doubled = FIRST.saturating_mul(1 << tries.min(20));
        Some(doubled.min(LONGEST))
    };
    let next = pause.and_then(|pause| now.checked_add(pause).ok());
    let next = next.filter(|next| !failure.is_final() && next.duration_since(ended) <= GIVE_UP);
    Delivery {
        done: next.is_none(),
        attempts,
        answered,
        next_attempt: next.and_then(at),
        delivered: None,
        message: Some(failure.to_string()),
    }
}

struct Sender {
    client: Client,
    poster: Poster,
    metrics: Arc<Metrics>,
    slots: Slots,
    /// Receivers that have answered, by namespace and host.
    answered: Mutex<HashSet<(String, String)>>,
}

/// Who gets a message, and what it is of.
struct Addressed<'a> {
    task: &'a PrewarmTask,
    namespace: String,
    index: usize,
    whom: &'a Notification,
}

impl Sender {
    /// Sends what is due of a task. An error means that the result could not be written, and was logged.
    async fn send_due(&self, task: &PrewarmTask, catalog: &Catalog) -> Result<(), ()> {
        let namespace = task.namespace().unwrap_or_default();
        let all = task.spec.notify.iter().flatten().enumerate();
        let tries = all.map(|(index, whom)| {
            let one = Addressed { task, namespace: namespace.clone(), index, whom };
            async move { self.try_one(&one).await }
        });
        let deliveries = future::join_all(tries).await;
        self.metrics.kube_requests.with_label_values(&["patch", "prewarmtasks"]).inc();
        let tasks = Api::<PrewarmTask>::namespaced(self.client.clone(), &namespace);
        let patch = Patch::Merge(json!({"metadata": {"uid": task.uid()}, "status": {"notifications": deliveries}}));
        match tasks.patch_status(&task.name_any(), &PatchParams::default(), &patch).await {
            Ok(task) => catalog.put(&task),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                let name = task.name_any();
                tracing::warn!(
                    task = name,
                    namespace,
                    %error,
                    "the status of notifications could not be written: they are sent again"
                );
                return Err(());
            }
        }
        Ok(())
    }

    async fn try_one(&self, one: &Addressed<'_>) -> Delivery {
        let (task, namespace) = (one.task, &one.namespace);
        let before = delivery(task, one.index);
        if !is_due(&before, Timestamp::now()) {
            return before;
        }
        let (host, result) = match self.address(one).await {
            Ok(address) => {
                let host = host_of(&address);
                let result = self.send(one, &address, &host).await;
                let hidden = one.whom.url_from.is_some();
                (host, result.map_err(|failure| if hidden { failure.without_address() } else { failure }))
            }
            Err(failure) => (String::new(), Err(failure)),
        };
        let key = (namespace.clone(), host.clone());
        let answers = {
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            if result.as_ref().is_ok_and(|()| true) || result.as_ref().is_err_and(Failure::is_answer) {
                if answered.len() >= MAX_ANSWERED {
                    answered.clear();
                }
                answered.insert(key.clone());
            }
            answered.contains(&key)
        };
        let now = Timestamp::now();
        let completed = task.status.as_ref().and_then(|status| status.completion_time.as_deref()?.parse().ok());
        let delivery = after(&before, result.as_ref().copied(), answers, completed.unwrap_or(now), now);
        self.note(one, &host, result.err().as_ref(), &delivery);
        delivery
    }

    fn note(&self, one: &Addressed<'_>, host: &str, failure: Option<&Failure>, delivery: &Delivery) {
        let (task, namespace) = (one.task.name_any(), &one.namespace);
        // The host of an address in a Secret is not for logs that more people read than the Secret.
        let host = if one.whom.url_from.is_some() { "(from a Secret)" } else { host };
        let count = |result: &str| self.metrics.notifications.with_label_values(&[result]).inc();
        let Some(failure) = failure else {
            count("delivered");
            tracing::info!(task, namespace, host, "a notification was delivered");
            return;
        };
        count(if delivery.done { "given_up" } else { "failed" });
        self.metrics.notification_errors.with_label_values(&[failure.class()]).inc();
        let next = delivery.next_attempt.as_deref().unwrap_or("never");
        tracing::warn!(task, namespace, host, %failure, next, "a notification could not be delivered");
    }

    async fn send(&self, one: &Addressed<'_>, address: &str, host: &str) -> Result<(), Failure> {
        // An address that is refused takes no slot.
        self.poster.read(address)?;
        let key = match &one.whom.secret_ref {
            Some(secret) => Some(self.secret(&one.namespace, &secret.name, SECRET_KEY).await?),
            None => None,
        };
        let id = format!("{}-{}", one.task.uid().unwrap_or_default(), one.index);
        let format = one.whom.format.as_deref().unwrap_or("json");
        let _slot = self.slots.take(&one.namespace, host).await;
        let post = Post {
            address,
            format,
            id: &id,
            message: &message(format, one.task, &id),
            key: key.as_deref(),
            now_millis: Timestamp::now().as_millisecond(),
        };
        self.poster.post(&post, &|| self.slots.may_follow(&one.namespace)).await
    }

    /// Returns the address of a notification, read from its Secret where the spec says so.
    async fn address(&self, one: &Addressed<'_>) -> Result<String, Failure> {
        let Some(source) = &one.whom.url_from else { return Ok(one.whom.url.clone().unwrap_or_default()) };
        let SecretKeyReference { name, key } = &source.secret_key_ref;
        let value = self.secret(&one.namespace, name, key).await?;
        let text = String::from_utf8(value).map_err(|_| Failure::NoText(name.clone(), key.clone()))?;
        Ok(text.trim().to_owned())
    }

    /// Reads a key of a Secret of the task's own namespace. A missing permission may pass: it can be granted.
    async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, Failure> {
        self.metrics.kube_requests.with_label_values(&["get", "secrets"]).inc();
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = secrets.get(name).await.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 403 => Failure::SecretForbidden(name.to_owned()),
            kube::Error::Api(status) if status.code == 404 => Failure::NoSecret(name.to_owned()),
            _ => Failure::SecretUnread(name.to_owned()),
        })?;
        let value = secret.data.unwrap_or_default().remove(key);
        value.map(|value| value.0).ok_or_else(|| Failure::NoKey(name.to_owned(), key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Cause, Policy};

    fn tries(failure: &Failure, answers: bool) -> (Delivery, SignedDuration) {
        let ended: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let (mut delivery, mut now) = (Delivery::default(), ended);
        while !delivery.done {
            assert!(is_due(&delivery, now));
            delivery = after(&delivery, Err(failure), answers, ended, now);
            if let Some(next) = &delivery.next_attempt {
                let next: Timestamp = next.parse().unwrap();
                assert!(!is_due(&delivery, now) && next > now);
                now = next;
            }
        }
        (delivery, now.duration_since(ended))
    }

    #[test]
    fn a_day_of_tries_for_who_answers() {
        let (delivery, last) = tries(&Failure::Status(503), false);
        assert!(last <= GIVE_UP && last > GIVE_UP - LONGEST);
        // 5 s doubled ten times is more than an hour; after these 85 minutes one an hour.
        assert_eq!((delivery.attempts, delivery.answered), (33, true));
        assert_eq!(delivery.message.as_deref(), Some("the receiver answered with HTTP 503"));
        assert_eq!(tries(&Failure::NoSecret("hook".into()), false).0.attempts, 33, "nothing is sent by these");
    }

    #[test]
    fn few_tries_for_who_never_answers() {
        let silence = Failure::Request(Cause::TimedOut);
        let (delivery, last) = tries(&silence, false);
        assert_eq!((delivery.attempts, delivery.answered), (5, false));
        assert!(last > SignedDuration::from_hours(1) && last < SignedDuration::from_hours(2), "{last:#}");
        assert_eq!(tries(&silence, true).0.attempts, 33, "it has answered another task");
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let before = Delivery { attempts: 10, answered: true, ..Delivery::default() };
        assert!(!after(&before, Err(&silence), false, now, now).done);
    }

    #[test]
    fn ends() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let told = after(&Delivery::default(), Ok(()), false, now, now);
        assert!(told.done && told.delivered.is_some() && told.message.is_none());
        let never = after(&Delivery::default(), Err(&Failure::Status(410)), false, now, now);
        assert!(never.done && never.delivered.is_none() && never.next_attempt.is_none());
    }

    #[test]
    fn of_an_address_nothing_but_the_host_is_shown() {
        assert_eq!(host_of("https://hooks.slack.com/services/T0/B0/TOKEN"), "hooks.slack.com");
        assert_eq!(host_of("https://u:TOKEN@example.com:8443/?access_token=TOKEN"), "example.com");
        assert_eq!(host_of("TOKEN"), "");
    }

    /// Addresses of one namespace that never answer do not delay the notification of another namespace.
    #[tokio::test(flavor = "multi_thread")]
    async fn black_holes_of_one_namespace_do_not_delay_another() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // It accepts connections, and answers none.
        let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hole_url = format!("http://{}/", hole.local_addr().unwrap());
        let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver_url = format!("http://{}/", receiver.local_addr().unwrap());
        let (heard, mut deliveries) = tokio::sync::mpsc::channel(10);
        let router = axum::Router::new().route(
            "/",
            axum::routing::post(async move || {
                let _ = heard.send(()).await;
            }),
        );
        tokio::spawn(async move { axum::serve(receiver, router).await });
        let catalog = Catalog::default();
        let ended = |namespace: &str, name: &str, url: &str| {
            let mut task = PrewarmTask::new(name, crate::task::PrewarmTaskSpec::new(vec!["a:1".into()]));
            task.metadata.namespace = Some(namespace.into());
            task.metadata.uid = Some(format!("uid-{name}"));
            task.metadata.resource_version = Some("1".into());
            task.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
            task.spec.notify = Some(vec![Notification { url: Some(url.into()), ..Notification::default() }]);
            task.status = Some(crate::task::PrewarmTaskStatus {
                phase: crate::task::Phase::Completed,
                completion_time: Some(Timestamp::now().to_string()),
                ..crate::task::PrewarmTaskStatus::default()
            });
            task
        };
        for n in 0..40 {
            catalog.put(&ended("a", &format!("hole-{n:02}"), &hole_url));
        }
        catalog.put(&ended("b", "good", &receiver_url));
        let refuses = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            let body = kube::client::Body::from(Vec::new());
            http::Response::builder().status(500).body(body)
        });
        let client = Client::new(refuses, "default");
        let policy = Policy::default().allowing(vec!["127.0.0.0/8".parse().unwrap()], "--notify-allow");
        let poster = Poster::new(policy.into()).unwrap();
        let stop = CancellationToken::new();
        let works = tokio::spawn(run(
            client,
            catalog,
            poster,
            NonZeroU32::MAX,
            Arc::new(Metrics::new().unwrap()),
            stop.clone(),
        ));
        let told = tokio::time::timeout(Duration::from_secs(5), deliveries.recv()).await;
        stop.cancel();
        works.await.unwrap();
        assert!(matches!(told, Ok(Some(()))), "namespace b was not told within 5 s");
    }
}
