//! The REST listener, and who may call it: the Secret of API tokens is followed, and callers who have not called for long are
//! forgotten.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api as KubeApi, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, auth::Tokens},
    server::listener::{self, Serving},
};

/// How often callers who have not called for long are forgotten: of each a few hundred bytes are kept.
const FORGET: Duration = Duration::from_secs(60);

/// Connections at once, most of them watches: with 20 to 40 KB each, 160 MB at the worst.
const MAX_CONNECTIONS: usize = 4096;

/// Scripts and SDKs ask for a task every few seconds, and keep their connection: it is not closed between two questions, which
/// would make one fail now and then. Longer than the 60 s for which proxies and load balancers keep idle ones, so that they
/// close first.
const IDLE: Duration = Duration::from_secs(75);

/// The Secret's namespace and name.
pub(super) type SecretName = (String, String);

/// Follows the Secret until `stop`. A token that is put in is good at once, and one that is taken out is not.
pub(super) async fn follow_tokens(client: Client, secret: SecretName, tokens: Tokens, stop: CancellationToken) {
    let (namespace, name) = secret;
    let secrets = KubeApi::<Secret>::namespaced(client, &namespace);
    let mut stream = std::pin::pin!(watch_object(secrets, &name).default_backoff());
    while let Some(Some(seen)) = stop.run_until_cancelled(stream.next()).await {
        match seen {
            Ok(secret) => tokens.replace(secret.as_ref()),
            Err(error) => {
                tracing::warn!(%error, name, "the Secret of API tokens could not be watched; it is tried again");
            }
        }
    }
}

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, tls: Option<ServerConfig>, api: Api, stop: CancellationToken) {
    let auth = api.auth.clone();
    let forget = async {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET)).await.is_some() {
            auth.forget();
        }
    };
    let how = Serving { tls, max_connections: MAX_CONNECTIONS, header: IDLE, ..Serving::default() };
    tokio::join!(listener::serve(listener, how, api::router(api), stop.clone()), forget);
}
