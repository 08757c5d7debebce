//! Validation and generation of keys.

use axum::http::HeaderMap;

use crate::api::error::ApiError;

/// Longest key, in characters.
const MAX_KEY: usize = 255;

/// Returns the `Idempotency-Key` of a call. Error 400 when it is empty, too long, or not visible
/// ASCII.
pub(in crate::api) fn key_from_headers(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let value = headers.get("idempotency-key");
    value.map(|value| check_key(value.to_str().unwrap_or_default())).transpose()
}

/// Returns the key if it is valid. Error 400 when it is empty, too long, or not visible ASCII.
pub fn check_key(key: &str) -> Result<&str, ApiError> {
    let visible = |c: u8| c == b'\t' || c == b' ' || c.is_ascii_graphic();
    if !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(visible) {
        return Ok(key);
    }
    let expected = format!("expected 1 to {MAX_KEY} visible characters");
    Err(ApiError::invalid_field("Idempotency-Key", expected))
}

/// Returns a new idempotency key for a form.
#[must_use]
pub fn random_key() -> String {
    prewarmer_core::hex(&rand::random::<[u8; 16]>())
}
