//! Watch of the Secret that contains the API tokens: keeps the tokens in memory up to date.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use prewarmer_kube::{
    api_contact::ApiContact,
    object_watch::{ObjectWatch, Observation},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ApiTokens;
use crate::api::ApiMetrics;

/// Duration of one watch request: a silent watch may be a broken connection. The tokens of a Secret
/// that is not reported within a minute are not accepted; a broken watch is detected after 20 + 5 s,
/// and the list that follows takes 5 s at most.
const WATCH_PERIOD: Duration = Duration::from_secs(20);

/// Watches the Secret (namespace, name) until `stop`. An added token is valid at once and a removed
/// one is not. No token is accepted while the Secret has been unreadable for longer than a minute.
pub async fn watch_tokens(
    client: Client,
    (namespace, name): (String, String),
    tokens: ApiTokens,
    metrics: &ApiMetrics,
    contact: ApiContact,
    stop: CancellationToken,
) {
    let begun = Instant::now();
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let mut watch = ObjectWatch::new(secrets, &name, WATCH_PERIOD, contact);
    while let Some(seen) = stop.run_until_cancelled(watch.next()).await {
        match seen {
            Ok(Observation::State(secret)) => tokens.replace(secret.as_deref()),
            Ok(Observation::Unchanged) if tokens.contact_age().is_some() => tokens.record_contact(),
            Ok(Observation::Unchanged) => {}
            Err(error) => {
                tracing::warn!(%error, name, "cannot read the Secret of API tokens; retrying");
            }
        }
        let age = tokens.contact_age().unwrap_or_else(|| begun.elapsed());
        metrics.tokens_age.set(age.as_secs_f64());
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
                let (place, contact) = (("prewarmer".into(), "t".into()), ApiContact::default());
                watch_tokens(client, place, tokens, &metrics, contact, stop).await;
            }
        };
        let work = tokio::spawn(work);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(code().await, 200);
        // A watch without events is not a loss of contact.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(code().await, 200);
        assert!(metrics.tokens_age.get() <= 30.0);
        // The watch is open but delivers nothing and does not end, as on a broken connection, and
        // the token is revoked: the list after it detects that.
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
