//! Scripts, style and pictures: part of the program.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::api::still::Still;

/// Name, kind and content.
const ASSETS: [(&str, &str, &str); 6] = [
    ("style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("htmx.js", "text/javascript; charset=utf-8", include_str!("assets/htmx-2.0.11.min.js")),
    ("sse.js", "text/javascript; charset=utf-8", include_str!("assets/htmx-ext-sse-2.2.4.min.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("LICENSES.txt", "text/plain; charset=utf-8", include_str!("assets/LICENSES.txt")),
];

/// Changes with any of them: pages name it, so that a browser may keep what it has for ever.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all = ASSETS.iter().fold(Sha256::new(), |digest, (_, _, text)| digest.chain_update(text));
    crate::hex(&all.finalize()[..6])
});

pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    static STILL: LazyLock<[(&str, Still); 6]> =
        LazyLock::new(|| ASSETS.map(|(name, kind, text)| (name, Still::new(kind, text))));
    match STILL.iter().find(|(known, _)| *known == name) {
        Some((_, still)) => {
            let mut response = still.answer(&headers);
            let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, kept);
            response
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
