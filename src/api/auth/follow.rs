//! Keeps the API tokens as their Secret has them.

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

use super::Tokens;
use crate::metrics::Metrics;

/// How often the Secret is looked at beside the watch: a watch that is silent may be one that is cut.
const LOOK: Duration = Duration::from_secs(20);
/// Longest wait for such a look.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the metric is renewed.
const NOTE: Duration = Duration::from_secs(5);

/// Follows the Secret (namespace, name) until `stop`. A token that is put in is good at once, and one that is taken out is not; while
/// the Secret is out of reach for longer than a minute, none is.
pub async fn follow(
    client: Client,
    (namespace, name): (String, String),
    tokens: Tokens,
    metrics: &Metrics,
    stop: CancellationToken,
) {
    let begun = Instant::now();
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    // By a list, as the watch begins with one: no further right is needed.
    let this = ListParams::default().fields(&format!("metadata.name={name}"));
    let mut changes = pin!(watch_object(secrets.clone(), &name).default_backoff());
    let mut look = interval_at(begun + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut note = interval(NOTE);
    loop {
        let seen = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                Some(seen) => seen.map_err(|error| error.to_string()),
                None => return,
            },
            // What the watch has brought meanwhile waits, and is taken after it: the newer state comes last.
            _ = look.tick() => match tokio::time::timeout(PATIENCE, secrets.list(&this)).await {
                Ok(list) => list.map(|list| list.items.into_iter().next()).map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            },
            _ = note.tick() => {
                metrics.api_tokens_age.set(tokens.age().unwrap_or_else(|| begun.elapsed()).as_secs_f64());
                continue;
            }
        };
        match seen {
            Ok(secret) => tokens.replace(secret.as_ref()),
            Err(error) => tracing::warn!(error, name, "the Secret of API tokens is out of reach; it is tried again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::ByteString;

    use super::*;
    use crate::api::{
        auth::{Auth, digest},
        fake::FakeCluster,
    };

    /// A replica that cannot watch the Secret must not take tokens that were revoked meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_revoked_token_ends_though_the_watch_is_cut() {
        let cluster = FakeCluster::default();
        let entry = format!("{{\"sha256\": \"{}\", \"namespaces\": [\"shop\"]}}", digest("prw_ci_x"));
        let data = [("ci".to_owned(), ByteString(entry.into_bytes()))];
        cluster.known().secret = Some(Secret { data: Some(data.into()), ..Secret::default() });
        let (tokens, metrics, stop) = (Tokens::default(), Arc::new(Metrics::new().unwrap()), CancellationToken::new());
        let auth = Auth::new(Some(cluster.client()), tokens.clone(), 10, Arc::clone(&metrics));
        let code = async || match auth.known("prw_ci_x", [10, 0, 0, 1].into()).await {
            Ok(_) => 200,
            Err(error) => error.code.as_u16(),
        };
        assert_eq!(code().await, 503, "before the first contact");
        let work = {
            let (client, tokens, metrics, stop) = (cluster.client(), tokens, Arc::clone(&metrics), stop.clone());
            async move { follow(client, ("prewarmer".into(), "t".into()), tokens, &metrics, stop).await }
        };
        let work = tokio::spawn(work);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(code().await, 200);
        // Silence alone is no loss of contact.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(code().await, 200);
        assert!(metrics.api_tokens_age.get() <= 30.0);
        // The watch stands and is silent, as behind a cut connection, and the token is revoked: the look finds it.
        let was = cluster.known().secret.take();
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(code().await, 401);
        cluster.known().secret = was;
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(code().await, 200);
        // The API server is out of reach, and the token is revoked.
        cluster.known().down = true;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(code().await, 503);
        assert!(metrics.api_tokens_age.get() > 60.0);
        cluster.known().down = false;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(code().await, 200);
        stop.cancel();
        work.await.unwrap();
    }
}
