//! The REST listener. Callers who have not called for long are forgotten.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::Response,
};
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

/// For a year, as browsers' lists of such hosts ask for.
const STRICT: &str = "max-age=31536000";

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, how: Serving, api: Api, stop: CancellationToken) {
    let callers = api.clone();
    let forget = async {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET)).await.is_some() {
            callers.forget();
        }
    };
    let how = Serving { max_age: Some(MAX_AGE), ..how };
    let router = api::router(api);
    let router = if how.tls.is_some() { router.layer(middleware::from_fn(strict)) } else { router };
    tokio::join!(listener::serve(listener, how, router, stop.clone()), forget);
}

/// Tells browsers to come by TLS only. Not under `localhost`: it would hold for every other port of a developer's machine.
async fn strict(request: Request, next: Next) -> Response {
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned()).or_else(|| {
        let host = request.headers().get(header::HOST)?;
        Some(host.to_str().ok()?.to_owned())
    });
    let mut response = next.run(request).await;
    if host.is_some_and(|host| !is_local(&host)) {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT));
    }
    response
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
    name == "localhost" || name.strip_suffix("localhost").is_some_and(|sub| sub.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn browsers_are_told_to_come_by_tls_only_but_for_this_machine() {
        let router = Router::new().route("/", get(async || "x")).layer(middleware::from_fn(strict));
        for (host, told) in [
            ("prewarmer.prewarmer.svc:8080", true),
            ("prewarmer.example.com", true),
            ("notlocalhost", true),
            ("localhost:8080", false),
            ("a.localhost", false),
        ] {
            let request = Request::get("/").header(header::HOST, host).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.headers().contains_key(header::STRICT_TRANSPORT_SECURITY), told, "{host}");
        }
    }
}
