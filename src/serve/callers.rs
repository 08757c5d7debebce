//! Who may call: the Secret of API tokens, followed; and those who have not called for long, forgotten.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio_util::sync::CancellationToken;

use crate::api::auth::{Auth, Tokens};

/// How often callers who have not called for long are forgotten: of each a few hundred bytes are kept.
const FORGET: Duration = Duration::from_secs(60);

/// The Secret's namespace and name.
pub(super) type SecretName = (String, String);

/// Follows the Secret until `stop`. A token that is put in is good at once, and one that is taken out is not.
pub(super) async fn follow_tokens(client: Client, secret: SecretName, tokens: Tokens, stop: CancellationToken) {
    let (namespace, name) = secret;
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let mut stream = std::pin::pin!(watch_object(secrets, &name).default_backoff());
    while let Some(Some(seen)) = stop.run_until_cancelled(stream.next()).await {
        match seen {
            Ok(secret) => tokens.replace(secret.as_ref()),
            Err(error) => tracing::warn!(%error, name, "the Secret of API tokens could not be watched; it is tried again"),
        }
    }
}

/// Forgets now and then, until `stop`.
pub(super) async fn forget(auth: Auth, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(FORGET)).await.is_some() {
        auth.forget();
    }
}
