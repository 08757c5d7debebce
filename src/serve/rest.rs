//! The REST listener. Callers who have not called for long are forgotten.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api},
    server::listener::{self, Serving},
};

/// How often callers who have not called for long are forgotten: of each a few hundred bytes are kept.
const FORGET: Duration = Duration::from_secs(60);

/// Connections at once, most of them watches: with 20 to 40 KB each, 160 MB at the worst.
pub(super) const MAX_CONNECTIONS: usize = 4096;

/// Connections that are kept for ever come to another replica after a while; a watch that is under way is not cut.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, how: Serving, api: Api, stop: CancellationToken) {
    let callers = api.clone();
    let forget = async {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET)).await.is_some() {
            callers.forget();
        }
    };
    let how = Serving { max_age: Some(MAX_AGE), ..how };
    tokio::join!(listener::serve(listener, how, api::router(api), stop.clone()), forget);
}
