//! Watch of the Secret that contains the API tokens: keeps the tokens in memory up to date.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

use super::ApiTokens;
use crate::api::ApiMetrics;

/// Interval at which the Secret is polled in addition to the watch: a silent watch may be a broken
/// connection.
const POLL_INTERVAL: Duration = Duration::from_secs(20);
/// Timeout of one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which the metric `prewarm_api_tokens_age_seconds` is updated.
const METRIC_INTERVAL: Duration = Duration::from_secs(5);

/// Watches the Secret (namespace, name) until `stop`. An added token is valid at once and a removed
/// one is not. No token is accepted while the Secret has been unreadable for longer than a minute.
pub async fn watch_tokens(
    client: Client,
    (namespace, name): (String, String),
    tokens: ApiTokens,
    metrics: &ApiMetrics,
    stop: CancellationToken,
) {
    let begun = Instant::now();
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    // Polls with a list, with which the watch begins as well: no further permission is needed.
    let this = ListParams::default().fields(&format!("metadata.name={name}"));
    let mut changes = pin!(watch_object(secrets.clone(), &name).default_backoff());
    let mut look = interval_at(begun + POLL_INTERVAL, POLL_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut note = interval(METRIC_INTERVAL);
    loop {
        let seen = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                Some(seen) => seen.map_err(|error| error.to_string()),
                None => return,
            },
            // Watch events that arrive during the poll are processed after it, so the newest state
            // is applied last.
            _ = look.tick() => match tokio::time::timeout(POLL_TIMEOUT, secrets.list(&this)).await {
                Ok(list) => list.map(|list| list.items.into_iter().next()).map_err(|error| error.to_string()),
                Err(_) => Err("request timed out".to_owned()),
            },
            _ = note.tick() => {
                metrics.tokens_age.set(tokens.contact_age().unwrap_or_else(|| begun.elapsed()).as_secs_f64());
                continue;
            }
        };
        match seen {
            Ok(secret) => tokens.replace(secret.as_ref()),
            Err(error) => {
                tracing::warn!(error, name, "cannot read the Secret of API tokens; retrying");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use prometheus::Registry;

    use super::*;
    use crate::api::{
        auth::{Auth, token_digest},
        fake_cluster::FakeCluster,
    };

    /// A replica that cannot watch the Secret must not accept tokens that were revoked meanwhile.
    #[tokio::test(start_paused = true)]
    async fn revocation_takes_effect_without_a_working_watch() {
        let cluster = FakeCluster::default();
        let entry =
            format!("{{\"sha256\": \"{}\", \"namespaces\": [\"shop\"]}}", token_digest("prw_ci_x"));
        let data = [("ci".to_owned(), ByteString(entry.into_bytes()))];
        cluster.state().secret = Some(Secret { data: Some(data.into()), ..Secret::default() });
        let (tokens, metrics, stop) = (
            ApiTokens::default(),
            ApiMetrics::register(&Registry::new()).unwrap(),
            CancellationToken::new(),
        );
        let auth = Auth::new(Some(cluster.client()), tokens.clone(), 10);
        let code = async || match auth.authenticate("prw_ci_x", [10, 0, 0, 1].into()).await {
            Ok(_) => 200,
            Err(error) => error.code.as_u16(),
        };
        assert_eq!(code().await, 503, "before the first contact");
        let work = {
            let (client, tokens, metrics, stop) =
                (cluster.client(), tokens, metrics.clone(), stop.clone());
            async move {
                watch_tokens(client, ("prewarmer".into(), "t".into()), tokens, &metrics, stop)
                    .await;
            }
        };
        let work = tokio::spawn(work);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(code().await, 200);
        // A watch without events is not a loss of contact.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(code().await, 200);
        assert!(metrics.tokens_age.get() <= 30.0);
        // The watch is open but delivers nothing, as on a broken connection, and the token is
        // revoked: the poll detects it.
        let was = cluster.state().secret.take();
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(code().await, 401);
        cluster.state().secret = was;
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(code().await, 200);
        // The API server is unreachable.
        cluster.state().unavailable = true;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(code().await, 503);
        assert!(metrics.tokens_age.get() > 60.0);
        cluster.state().unavailable = false;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(code().await, 200);
        stop.cancel();
        work.await.unwrap();
    }
}
