//! Delivery loop: sends the notifications that are due until each is delivered or abandoned.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use prewarmer_core::{
    task::{Delivery, Notification, PrewarmTask, SecretKeyReference},
    timestamp,
};
use prewarmer_kube::{
    api_error::ApiErrorKind,
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind as Guarded, record_panic},
    store::TaskStore,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    active_tasks::ActiveTasks,
    delivery_limits::DeliveryLimits,
    delivery_state::{
        delivery_status, fewest_attempts, has_due_delivery, is_due, next_delivery_state,
    },
    message::render_message,
    metrics::NotifyMetrics,
    webhook_client::{DeliveryError, WebhookClient, WebhookRequest},
};
use crate::telemetry::task_span;

/// Maximum number of receivers stored that have responded since this replica became the leader.
/// Above it, all are removed.
const MAX_ANSWERED: usize = 10_000;
/// Key of the signing key within its Secret.
const SECRET_KEY: &str = "key";
/// Delay after a failed status write: otherwise the message would be sent again at once.
const STATUS_WRITE_BACKOFF: Duration = Duration::from_secs(60);
/// Interval at which deliveries that wait are checked even without changes of tasks.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Debounce interval of task changes: changes within it are processed together.
const DEBOUNCE_INTERVAL: Duration = Duration::from_millis(100);

/// Sends notifications until `stop`. The store must have received its first list. `per_minute` is
/// the number of messages per namespace and minute.
pub(crate) async fn run(
    client: Client,
    catalog: TaskStore,
    poster: WebhookClient,
    per_minute: NonZeroU32,
    object_errors: ObjectErrorMetrics,
    metrics: NotifyMetrics,
    stop: CancellationToken,
) {
    let sender = Arc::new(NotificationSender {
        client,
        webhook_client: poster,
        metrics,
        limits: DeliveryLimits::new(per_minute),
        responsive_receivers: Mutex::default(),
    });
    let mut news = catalog.tracked_changes();
    let mut work = ActiveTasks::default();
    loop {
        let now = Timestamp::now();
        let mut due: Vec<Arc<PrewarmTask>> = catalog.pending_notifications();
        let is_waiting = !due.is_empty();
        due.retain(|task| has_due_delivery(task, now) && !work.contains(task));
        // Tasks with a delivery that has fewer attempts go first.
        due.sort_by_cached_key(|task| fewest_attempts(task, now));
        for task in work.select(&due) {
            work.insert(&task);
            let (sender, catalog) = (Arc::clone(&sender), catalog.clone());
            let span = task_span(&task.namespace().unwrap_or_default(), &task.name_any());
            let send = async move {
                if sender.send_due(&task, &catalog).await.is_err() {
                    tokio::time::sleep(STATUS_WRITE_BACKOFF).await;
                }
                task
            };
            work.tasks.spawn(send.instrument(span));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = work.tasks.join_next() => match done {
                Ok(task) => work.remove(&task),
                // The task remains in the set of tasks in progress, so this leader does not process
                // it again.
                Err(error) if error.is_panic() => {
                    record_panic(&object_errors, Guarded::Notification, "notifications of a task", error.into_panic().as_ref());
                }
                Err(error) => tracing::error!(%error, "cannot send the notifications of a task"),
            },
            _ = news.changed() => tokio::time::sleep(DEBOUNCE_INTERVAL).await,
            () = tokio::time::sleep(POLL_INTERVAL), if is_waiting => {}
        }
    }
}

/// Returns the receiver of an address for limits and logs: only its host, because the rest may be a
/// credential. Performs no I/O.
fn host_of(address: &str) -> String {
    let url = address.parse::<reqwest::Url>().ok();
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

struct NotificationSender {
    client: Client,
    webhook_client: WebhookClient,
    metrics: NotifyMetrics,
    limits: DeliveryLimits,
    /// Receivers that have responded, by namespace and host.
    responsive_receivers: Mutex<HashSet<(String, String)>>,
}

/// Task with one entry of its `spec.notify`.
struct PendingDelivery<'a> {
    task: &'a PrewarmTask,
    namespace: String,
    index: usize,
    notification: &'a Notification,
}

impl NotificationSender {
    /// Sends the notifications of a task that are due. An error means that the status could not be
    /// written; it is already logged.
    async fn send_due(&self, task: &PrewarmTask, catalog: &TaskStore) -> Result<(), ()> {
        let namespace = task.namespace().unwrap_or_default();
        let all = task.spec.notify.iter().flatten().enumerate();
        let tries = all.map(|(index, whom)| {
            let one =
                PendingDelivery { task, namespace: namespace.clone(), index, notification: whom };
            async move { self.attempt_delivery(&one).await }
        });
        let deliveries = future::join_all(tries).await;
        let tasks = Api::<PrewarmTask>::namespaced(self.client.clone(), &namespace);
        let patch = Patch::Merge(
            json!({"metadata": {"uid": task.uid()}, "status": {"notifications": deliveries}}),
        );
        match tasks.patch_status(&task.name_any(), &PatchParams::default(), &patch).await {
            Ok(task) => catalog.put(&task),
            // The task was deleted, or a task of the same name replaced it.
            Err(error) if ApiErrorKind::of(&error).is_gone_or_replaced() => {}
            Err(error) => {
                let name = task.name_any();
                tracing::warn!(
                    task = name,
                    namespace,
                    %error,
                    "cannot write the notification status: the notifications are sent again"
                );
                return Err(());
            }
        }
        Ok(())
    }

    async fn attempt_delivery(&self, one: &PendingDelivery<'_>) -> Delivery {
        let (task, namespace) = (one.task, &one.namespace);
        let before = delivery_status(task, one.index);
        if !is_due(&before, Timestamp::now()) {
            return before;
        }
        let (host, result) = match self.resolve_address(one).await {
            Ok(address) => {
                let host = host_of(&address);
                let result = self.send(one, &address, &host).await;
                let hidden = one.notification.url_from.is_some();
                (
                    host,
                    result
                        .map_err(|failure| if hidden { failure.redact_address() } else { failure }),
                )
            }
            Err(failure) => (String::new(), Err(failure)),
        };
        let key = (namespace.clone(), host.clone());
        let answers = {
            let mut answered =
                self.responsive_receivers.lock().unwrap_or_else(PoisonError::into_inner);
            if result.as_ref().is_ok_and(|()| true)
                || result.as_ref().is_err_and(DeliveryError::is_response)
            {
                if answered.len() >= MAX_ANSWERED {
                    answered.clear();
                }
                answered.insert(key.clone());
            }
            answered.contains(&key)
        };
        let now = Timestamp::now();
        let completed = task
            .status
            .as_ref()
            .and_then(|status| timestamp::parse(status.completion_time.as_deref()?));
        let delivery = next_delivery_state(
            &before,
            result.as_ref().copied(),
            answers,
            completed.unwrap_or(now),
            now,
        );
        self.record_result(one, &host, result.err().as_ref(), &delivery);
        delivery
    }

    fn record_result(
        &self,
        one: &PendingDelivery<'_>,
        host: &str,
        failure: Option<&DeliveryError>,
        delivery: &Delivery,
    ) {
        let (task, namespace) = (one.task.name_any(), &one.namespace);
        // More users can read logs than the Secret, so logs do not contain the host of its address.
        let host = if one.notification.url_from.is_some() { "(from a Secret)" } else { host };
        let count = |result: &str| self.metrics.attempts.with_label_values(&[result]).inc();
        let Some(failure) = failure else {
            count("delivered");
            tracing::info!(task, namespace, host, "delivered a notification");
            return;
        };
        count(if delivery.done { "given_up" } else { "failed" });
        self.metrics.errors.with_label_values(&[failure.metric_label()]).inc();
        let next = delivery.next_attempt.as_deref().unwrap_or("never");
        tracing::warn!(task, namespace, host, %failure, next, "a notification could not be delivered");
    }

    async fn send(
        &self,
        one: &PendingDelivery<'_>,
        address: &str,
        host: &str,
    ) -> Result<(), DeliveryError> {
        // A denied address takes no permit.
        self.webhook_client.parse_address(address)?;
        let key = match &one.notification.secret_ref {
            Some(secret) => {
                Some(self.read_secret_key(&one.namespace, &secret.name, SECRET_KEY).await?)
            }
            None => None,
        };
        let id = format!("{}-{}", one.task.uid().unwrap_or_default(), one.index);
        let format = one.notification.format.as_deref().unwrap_or("json");
        let _slot = self.limits.acquire(&one.namespace, host).await;
        let post = WebhookRequest {
            address,
            format,
            id: &id,
            message: &render_message(format, one.task, &id),
            key: key.as_deref(),
            now_millis: Timestamp::now().as_millisecond(),
        };
        self.webhook_client.send(&post, &|| self.limits.try_redirect(&one.namespace)).await
    }

    /// Returns the address of a notification, read from its Secret if the spec refers to one.
    async fn resolve_address(&self, one: &PendingDelivery<'_>) -> Result<String, DeliveryError> {
        let Some(source) = &one.notification.url_from else {
            return Ok(one.notification.url.clone().unwrap_or_default());
        };
        let SecretKeyReference { name, key } = &source.secret_key_ref;
        let value = self.read_secret_key(&one.namespace, name, key).await?;
        let text = String::from_utf8(value)
            .map_err(|_| DeliveryError::SecretNotUtf8(name.clone(), key.clone()))?;
        Ok(text.trim().to_owned())
    }

    /// Reads a key of a Secret in the task's own namespace. A missing permission is a transient
    /// error, because it can be granted.
    async fn read_secret_key(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<Vec<u8>, DeliveryError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let secret = secrets.get(name).await.map_err(|error| match ApiErrorKind::of(&error) {
            kind if kind.is_forbidden() => DeliveryError::SecretForbidden(name.to_owned()),
            ApiErrorKind::NotFound => DeliveryError::SecretNotFound(name.to_owned()),
            _ => DeliveryError::SecretUnavailable(name.to_owned()),
        })?;
        let value = secret.data.unwrap_or_default().remove(key);
        value
            .map(|value| value.0)
            .ok_or_else(|| DeliveryError::SecretKeyNotFound(name.to_owned(), key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::EgressPolicy;

    #[test]
    fn host_of_contains_no_credentials() {
        assert_eq!(host_of("https://hooks.slack.com/services/T0/B0/TOKEN"), "hooks.slack.com");
        assert_eq!(host_of("https://u:TOKEN@example.com:8443/?access_token=TOKEN"), "example.com");
        assert_eq!(host_of("TOKEN"), "");
    }

    /// Verifies that receivers of one namespace that never respond do not delay another namespace.
    #[tokio::test(flavor = "multi_thread")]
    async fn unresponsive_receivers_do_not_delay_other_namespace() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // A listener that accepts connections and never responds.
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
        let catalog = TaskStore::new(crate::task_view::render);
        let ended = |namespace: &str, name: &str, url: &str| {
            let mut task = PrewarmTask::new(
                name,
                prewarmer_core::task::PrewarmTaskSpec::new(vec!["a:1".into()]),
            );
            task.metadata.namespace = Some(namespace.into());
            task.metadata.uid = Some(format!("uid-{name}"));
            task.metadata.resource_version = Some("1".into());
            task.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
            task.spec.notify =
                Some(vec![Notification { url: Some(url.into()), ..Notification::default() }]);
            task.status = Some(prewarmer_core::task::PrewarmTaskStatus {
                phase: prewarmer_core::task::Phase::Completed,
                completion_time: Some(Timestamp::now().to_string()),
                ..prewarmer_core::task::PrewarmTaskStatus::default()
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
        let policy = EgressPolicy::default()
            .with_allowed(vec!["127.0.0.0/8".parse().unwrap()], "--notify-allow");
        let poster = WebhookClient::new(policy.into()).unwrap();
        let (registry, stop) = (prometheus::Registry::new(), CancellationToken::new());
        let works = tokio::spawn(run(
            client,
            catalog,
            poster,
            NonZeroU32::MAX,
            ObjectErrorMetrics::register(&registry).unwrap(),
            NotifyMetrics::register(&registry).unwrap(),
            stop.clone(),
        ));
        let delivery = tokio::time::timeout(Duration::from_secs(5), deliveries.recv()).await;
        stop.cancel();
        works.await.unwrap();
        assert!(
            matches!(delivery, Ok(Some(()))),
            "namespace b received no notification within 5 s"
        );
    }
}
