//! Bounded reading of request bodies. Limits apply per body, per caller and in total.

use std::{hash::Hash, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::BytesMut;
use futures::StreamExt;
use serde_json::Value;

use super::{
    Api,
    auth::{CallerName, caller_address},
    bounded_json::{self, MAX_VALUES},
    budgets::BodyBudget,
    error::ApiError,
};
use crate::server::budget::{BudgetExceeded, BudgetPermit};

/// Largest body, in bytes: a task of 100 images has 60 KB, a manifest may have some hundred KB.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// Largest form of the web pages, in bytes: 100 images of 250 characters each take 30 KB.
pub(super) const MAX_FORM: usize = 64 * 1024;
/// Largest form of an unauthenticated client, in bytes: a token has 4,000 characters at most, an
/// address 2,000.
const MAX_ANONYMOUS_FORM: usize = 16 * 1024;
/// Largest number of fields in a form. The forms of the web pages have about twenty.
const MAX_FIELDS: usize = 500;
/// `Retry-After` when a budget is exhausted, in seconds.
const RETRY_AFTER: u64 = 2;

/// Content types of a JSON body.
const JSON_TYPES: [&str; 1] = ["application/json"];
/// Content types of a JSON body whose client names none: the default of `curl -d`, and none at all.
/// Callers are authenticated by a token in a header, and without authentication requests of other
/// pages are refused, so that the type protects from nothing.
const UNLABELED_TYPES: [&str; 2] = ["application/x-www-form-urlencoded", ""];
/// Content type of a form.
const FORM_TYPES: [&str; 1] = ["application/x-www-form-urlencoded"];

/// Body with its share of the budget, which is released on drop.
pub(super) struct BufferedBody<K: Hash + Eq + Clone = String> {
    pub(super) bytes: Bytes,
    permit: BudgetPermit<K>,
}

fn check_content_type(headers: &HeaderMap, kinds: &[&str]) -> Result<(), ApiError> {
    let kind =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kinds.contains(&plain.as_str()) {
        return Ok(());
    }
    let first = kinds.first().copied().unwrap_or_default();
    let hint = format!(
        "expected Content-Type {}, for example curl -H 'Content-Type: {first}'",
        kinds.join(" or ")
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, hint))
}

fn budget_error(full: BudgetExceeded) -> ApiError {
    match full {
        BudgetExceeded::Total => {
            let words = "the memory for request bodies is in use by other calls: try again later";
            ApiError::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, RETRY_AFTER)
        }
        BudgetExceeded::PerKey => {
            let words = "your other calls use all the memory for request bodies that one caller may use: try again later";
            ApiError::retry_after(StatusCode::TOO_MANY_REQUESTS, words, RETRY_AFTER)
        }
    }
}

/// Reads a body of at most `most` bytes, which must arrive within the timeout. The budget is charged for bytes that have arrived, not for
/// the announced `Content-Length`. Errors: 413 when the body is larger, 408 when it does not arrive
/// in time, 429 or 503 when the budget is exhausted.
async fn read_bounded<K: Hash + Eq + Clone>(
    mut room: BudgetPermit<K>,
    headers: &HeaderMap,
    body: Body,
    (most, read_timeout): (usize, Duration),
) -> Result<BufferedBody<K>, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body must not exceed {most} bytes"),
        )
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let arrive = async {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let broken = |_| ApiError::invalid_field("", "the body ended before it was complete");
            let chunk: Bytes = chunk.map_err(broken)?;
            if bytes.len().saturating_add(chunk.len()) > most {
                return Err(too_large());
            }
            room.try_grow(chunk.len()).map_err(budget_error)?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    let bytes = tokio::time::timeout(read_timeout, arrive).await.unwrap_or_else(|_| {
        let seconds = read_timeout.as_secs();
        Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {seconds} s"),
        ))
    })?;
    Ok(BufferedBody { bytes, permit: room })
}

/// Reads the body of an authenticated caller. Error 415 when its content type is not one of
/// `kinds`.
pub(super) async fn read_bytes(
    bodies: &BodyBudget,
    who: &str,
    headers: &HeaderMap,
    body: Body,
    kinds: &[&str],
) -> Result<BufferedBody, ApiError> {
    check_content_type(headers, kinds)?;
    let room = bodies.empty_permit(who.to_owned());
    read_bounded(room, headers, body, (MAX_BODY, bodies.read_timeout)).await
}

/// Reads the body as JSON of at most [`MAX_VALUES`] values.
pub(super) async fn read_json(
    bodies: &BodyBudget,
    who: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<JsonBody, ApiError> {
    if check_content_type(headers, &UNLABELED_TYPES).is_err() {
        check_content_type(headers, &JSON_TYPES)?;
    }
    let room = bodies.empty_permit(who.to_owned());
    let limits = (MAX_BODY, bodies.read_timeout);
    let BufferedBody { bytes, permit: room } = read_bounded(room, headers, body, limits).await?;
    let value = bounded_json::parse(&bytes, MAX_VALUES);
    let value = value.map_err(|error| {
        ApiError::invalid_field("", format!("the body is not valid JSON: {error}"))
    })?;
    Ok(JsonBody { value, _permit: room })
}

/// JSON body with the share of the budget that its text takes.
pub(super) struct JsonBody {
    pub(super) value: Value,
    _permit: BudgetPermit<String>,
}

/// Form with the share of the budget that its text takes. Handlers take it as their last argument:
/// axum evaluates arguments in order, so the caller is authenticated before the body is read.
pub struct FormBody {
    /// Fields, in the order sent.
    pub fields: Vec<(String, String)>,
    /// Released on drop; `None` when the client is not authenticated.
    _permit: Option<BudgetPermit<String>>,
}

fn parse_form(bytes: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(bytes).into_owned().take(MAX_FIELDS.saturating_add(1)).collect()
}

/// Reads a form within the budget of the caller, or of the client's IP address when it is not
/// authenticated. Error 400 when it has more than [`MAX_FIELDS`] fields.
pub(super) async fn read_form(api: &Api, request: Request) -> Result<FormBody, ApiError> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers, &FORM_TYPES)?;
    let timeout = api.budgets.bodies.read_timeout;
    let known = parts.extensions.get::<CallerName>().and_then(|who| who.0.get().cloned());
    let (fields, permit) = if let Some(who) = known {
        let room = api.budgets.bodies.empty_permit(who);
        let read = read_bounded(room, &parts.headers, body, (MAX_FORM, timeout)).await?;
        (parse_form(&read.bytes), Some(read.permit))
    } else {
        let room = api.budgets.anonymous_forms.empty_permit(caller_address(&parts.extensions));
        let read = read_bounded(room, &parts.headers, body, (MAX_ANONYMOUS_FORM, timeout)).await?;
        (parse_form(&read.bytes), None)
    };
    if fields.len() > MAX_FIELDS {
        return Err(ApiError::invalid_field(
            "",
            format!("the form must not have more than {MAX_FIELDS} fields"),
        ));
    }
    Ok(FormBody { fields, _permit: permit })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use rstest::rstest;

    use super::*;
    use crate::api::budgets::{CALLER_BODY_BYTES, body_budget};

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())])
    }

    #[rstest]
    #[case("application/json", "{}", Ok(()))]
    #[case("Application/JSON; charset=utf-8", "{}", Ok(()))]
    #[case("application/x-www-form-urlencoded", "{}", Ok(()))]
    #[case("application/x-www-form-urlencoded", "images=nginx", Err(400))]
    #[case("", "{}", Ok(()))]
    #[case("text/plain", "{}", Err(415))]
    #[case("application/json", "{", Err(400))]
    #[case("application/json", "", Err(400))]
    #[tokio::test]
    async fn content_type_and_syntax_are_checked(
        #[case] kind: &'static str,
        #[case] body: &'static str,
        #[case] expected: Result<(), u16>,
    ) {
        let read =
            read_json(&body_budget(TIMEOUT), "user:a", &headers(kind), Body::from(body)).await;
        assert_eq!(read.map(drop).map_err(|error| error.code.as_u16()), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn size_nesting_and_time_are_limited() {
        let bodies = body_budget(TIMEOUT);
        let code = async |body: Body| {
            read_json(&bodies, "user:a", &headers("application/json"), body)
                .await
                .err()
                .unwrap()
                .code
        };
        assert_eq!(code(Body::from(vec![b' '; MAX_BODY + 1])).await, StatusCode::PAYLOAD_TOO_LARGE);
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(code(Body::from(deep)).await, StatusCode::BAD_REQUEST);
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(code(stalled).await, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn budget_is_limited_in_total_and_per_caller() {
        let bodies = body_budget(TIMEOUT);
        let headers = headers("application/json");
        let one = async |who: &str| {
            read_json(&bodies, who, &headers, Body::from(vec![b' '; MAX_BODY - 2])).await
        };
        // A body that is not JSON is released once the error is returned.
        assert_eq!(one("user:a").await.err().unwrap().code, StatusCode::BAD_REQUEST);
        assert_eq!(bodies.used(), 0);
        let text = format!("\"{}\"", "x".repeat(MAX_BODY - 2));
        let one =
            async |who: &str| read_json(&bodies, who, &headers, Body::from(text.clone())).await;
        let mut held = Vec::new();
        for caller in 0..4 {
            let who = format!("user:{caller}");
            for _ in 0..CALLER_BODY_BYTES / MAX_BODY {
                held.push(one(&who).await.ok().unwrap());
            }
            let code = if caller < 3 {
                StatusCode::TOO_MANY_REQUESTS
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            assert_eq!(one(&who).await.err().unwrap().code, code);
        }
        held.pop();
        assert!(one("user:3").await.is_ok(), "released bytes can be used again");
    }

    #[tokio::test(start_paused = true)]
    async fn announced_length_is_not_charged() {
        let bodies = body_budget(TIMEOUT);
        let mut headers = headers("application/json");
        headers.insert(header::CONTENT_LENGTH, MAX_BODY.into());
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let reading = read_json(&bodies, "user:a", &headers, stalled);
        let looking = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(bodies.used(), 0);
        };
        let (read, ()) = tokio::join!(reading, looking);
        assert_eq!(read.err().unwrap().code, StatusCode::REQUEST_TIMEOUT);
    }
}
