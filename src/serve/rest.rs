//! The REST listener. Callers who have not called for long are forgotten.

use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api},
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
