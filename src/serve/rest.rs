//! REST listener, and periodic removal of the state of inactive callers.

use std::time::Duration;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::Response,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, pages::Pages},
    server::listener::{self, ListenerConfig},
};

/// Interval at which the state of inactive callers is removed. It has a few hundred bytes per
/// caller.
const CALLER_CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of connections, most of which are watches. With 20 to 40 KB each they use 160 MB
/// at most.
pub(super) const MAX_CONNECTIONS: usize = 4096;

/// Maximum age of a connection, so that long-lived connections are distributed over the replicas. A
/// running watch is not interrupted.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Value of `Strict-Transport-Security`: one year, which the HSTS preload lists of browsers
/// require.
const HSTS: &str = "max-age=31536000";

/// Serves REST, the pages if given, and the health endpoints (`probes`), until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    how: ListenerConfig,
    api: Api,
    (pages, probes): (Option<Pages>, Router),
    stop: CancellationToken,
) {
    let callers = api.clone();
    let forget = async {
        while stop.run_until_cancelled(tokio::time::sleep(CALLER_CLEANUP_INTERVAL)).await.is_some()
        {
            callers.evict_idle();
        }
    };
    let how = ListenerConfig { max_age: Some(MAX_AGE), ..how };
    let router = api::router_with(api, pages, probes);
    let router =
        if how.tls.is_some() { router.layer(middleware::from_fn(add_hsts)) } else { router };
    tokio::join!(listener::serve(listener, how, router, stop.clone()), forget);
}

/// Adds `Strict-Transport-Security` to responses, except for `localhost`, where it would apply to
/// all other ports of the machine.
async fn add_hsts(request: Request, next: Next) -> Response {
    let host =
        request.uri().authority().map(|authority| authority.as_str().to_owned()).or_else(|| {
            let host = request.headers().get(header::HOST)?;
            Some(host.to_str().ok()?.to_owned())
        });
    let mut response = next.run(request).await;
    if host.is_some_and(|host| !is_local(&host)) {
        response
            .headers_mut()
            .insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
    }
    response
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
    name == "localhost" || name.strip_suffix("localhost").is_some_and(|sub| sub.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn hsts_is_sent_except_for_localhost() {
        let router =
            Router::new().route("/", get(async || "x")).layer(middleware::from_fn(add_hsts));
        for (host, told) in [
            ("prewarmer.prewarmer.svc:8080", true),
            ("prewarmer.example.com", true),
            ("notlocalhost", true),
            ("localhost:8080", false),
            ("a.localhost", false),
        ] {
            let request = Request::get("/").header(header::HOST, host).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(
                response.headers().contains_key(header::STRICT_TRANSPORT_SECURITY),
                told,
                "{host}"
            );
        }
    }
}
