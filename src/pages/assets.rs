//! Static assets (scripts, style sheet, icon), which are compiled into the binary.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use prewarmer::api::pages::StaticResponse;
use sha2::{Digest, Sha256};

/// Name, media type and content of each asset.
const ASSETS: [(&str, &str, &str); 6] = [
    ("style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("htmx.js", "text/javascript; charset=utf-8", include_str!("assets/htmx-2.0.11.min.js")),
    ("sse.js", "text/javascript; charset=utf-8", include_str!("assets/htmx-ext-sse-2.2.4.min.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("LICENSES.txt", "text/plain; charset=utf-8", include_str!("assets/LICENSES.txt")),
];

/// Version of the assets, a hash of their contents. Pages append it to asset URLs, so that browsers
/// may cache assets indefinitely.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all = ASSETS.iter().fold(Sha256::new(), |digest, (_, _, text)| digest.chain_update(text));
    prewarmer_core::hex(&all.finalize()[..6])
});

pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    static STILL: LazyLock<[(&str, StaticResponse); 6]> =
        LazyLock::new(|| ASSETS.map(|(name, kind, text)| (name, StaticResponse::new(kind, text))));
    match STILL.iter().find(|(known, _)| *known == name) {
        Some((_, still)) => {
            let mut response = still.respond(&headers);
            let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, kept);
            response
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
