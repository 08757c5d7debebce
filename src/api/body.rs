//! Reads bodies within bounds: of each, of each caller's, and of all together.

use std::{hash::Hash, net::IpAddr, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRef, FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures::StreamExt;
use serde_json::Value;

use super::{
    Api,
    auth::peer,
    error::ApiError,
    front::Who,
    ui::respond::Refusal,
    values::{self, MAX_VALUES},
};
use crate::server::budget::{Budget, Full, Taken};

/// Largest body, in bytes: a task of 100 images is 60 KB, a manifest may be some hundred.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// Largest form of the pages, in bytes: one of 100 images of 250 characters each has 30 KB.
pub(super) const MAX_FORM: usize = 64 * 1024;
/// Largest form of a caller who is not known yet, in bytes: a token has 4,000 characters at most, an address 2,000.
const MAX_SIGN_IN: usize = 16 * 1024;
/// All forms of callers who are not known yet, and those of one address: a hundred of the largest at once.
const MAX_OF_STRANGERS: (usize, usize) = (4 * MAX_BODY, 2 * MAX_BODY);
/// Fields of a form: those of the pages have some twenty.
const MAX_FIELDS: usize = 500;
/// All bodies that are being read or worked on, in bytes: 16 of the largest, or hundreds of the usual 10 KB. What is made of a
/// body in memory takes up to four times as much (`values` bounds it), which makes 64 MiB.
const MAX_BODIES: usize = 16 * 1024 * 1024;
/// Of one caller.
const MAX_OF_ONE: usize = MAX_BODIES / 4;
/// A body that has not arrived by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a caller is asked to come again.
const LATER: u64 = 2;

/// The kinds of a body of JSON.
const JSON: [&str; 1] = ["application/json"];
/// The kind of a form.
const FORM: [&str; 1] = ["application/x-www-form-urlencoded"];

/// Room for bodies, by caller.
pub(super) type Bodies = Budget<String>;

/// Room for the bodies of all callers who are known.
pub(super) fn bodies() -> Bodies {
    Budget::new(MAX_BODIES, MAX_OF_ONE)
}

/// Room for the forms of callers who are not known yet: they take none of that of others.
pub(super) fn strangers() -> Budget<IpAddr> {
    Budget::new(MAX_OF_STRANGERS.0, MAX_OF_STRANGERS.1)
}

/// A body, and the room that it takes until it is dropped.
pub(super) struct Read<K: Hash + Eq + Clone = String> {
    pub(super) bytes: Bytes,
    room: Taken<K>,
}

fn check_kind(headers: &HeaderMap, kinds: &[&str]) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kinds.contains(&plain.as_str()) {
        return Ok(());
    }
    let first = kinds.first().copied().unwrap_or_default();
    let hint = format!("expected a body of {}, such as by curl -H 'Content-Type: {first}'", kinds.join(" or "));
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, hint))
}

fn full(full: Full) -> ApiError {
    match full {
        Full::Total => {
            let words = "bodies of other calls take all room that there is for bodies: try again later";
            ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, LATER)
        }
        Full::Own => {
            let words = "the bodies of your other calls take all room that one caller may have: try again later";
            ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, LATER)
        }
    }
}

/// Reads a body of at most `most` bytes. Room is taken for what has arrived, and not for what is announced.
async fn read<K: Hash + Eq + Clone>(
    mut room: Taken<K>,
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Read<K>, ApiError> {
    let too_large = || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {most} bytes at most"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let arrive = async {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let broken = |_| ApiError::bad_field("", "the body ended early");
            let chunk: Bytes = chunk.map_err(broken)?;
            if bytes.len().saturating_add(chunk.len()) > most {
                return Err(too_large());
            }
            room.more(chunk.len()).map_err(full)?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    let bytes = tokio::time::timeout(PATIENCE, arrive).await.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {seconds} s")))
    })?;
    Ok(Read { bytes, room })
}

/// The body of a caller who is known, if it is of one of these kinds.
pub(super) async fn bytes(
    bodies: &Bodies,
    who: &str,
    headers: &HeaderMap,
    body: Body,
    kinds: &[&str],
) -> Result<Read, ApiError> {
    check_kind(headers, kinds)?;
    read(bodies.open(who.to_owned()), headers, body, MAX_BODY).await
}

/// The body as JSON, of a bounded number of values.
pub(super) async fn json(bodies: &Bodies, who: &str, headers: &HeaderMap, body: Body) -> Result<Json, ApiError> {
    let Read { bytes, room } = bytes(bodies, who, headers, body, &JSON).await?;
    let value = values::parse(&bytes, MAX_VALUES);
    let value = value.map_err(|error| ApiError::bad_field("", format!("the body is no JSON: {error}")))?;
    Ok(Json { value, _room: room })
}

/// JSON, and the room that its text took.
pub(super) struct Json {
    pub(super) value: Value,
    _room: Taken<String>,
}

/// The fields of a form, in their order. Where a page asks who sends it, that comes first: a handler's arguments are read in
/// their order, and the body is the last.
pub(super) struct Form(pub(super) Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Form
where
    Api: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        form(&Api::from_ref(state), request).await.map_err(|error| Refusal::from(error).into_response())
    }
}

fn fields(bytes: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(bytes).into_owned().take(MAX_FIELDS.saturating_add(1)).collect()
}

/// Reads a form.
pub(super) async fn form(api: &Api, request: Request) -> Result<Form, ApiError> {
    let (parts, body) = request.into_parts();
    check_kind(&parts.headers, &FORM)?;
    let known = parts.extensions.get::<Who>().and_then(|who| who.0.get().cloned());
    let fields = if let Some(who) = known {
        fields(&read(api.bounds.bodies.open(who), &parts.headers, body, MAX_FORM).await?.bytes)
    } else {
        let room = api.bounds.strangers.open(peer(&parts.extensions));
        fields(&read(room, &parts.headers, body, MAX_SIGN_IN).await?.bytes)
    };
    if fields.len() > MAX_FIELDS {
        return Err(ApiError::bad_field("", format!("a form may have {MAX_FIELDS} fields at most")));
    }
    Ok(Form(fields))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use rstest::rstest;

    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())])
    }

    #[rstest]
    #[case("application/json", "{}", Ok(()))]
    #[case("Application/JSON; charset=utf-8", "{}", Ok(()))]
    #[case("text/plain", "{}", Err(415))]
    #[case("application/json", "{", Err(400))]
    #[case("application/json", "", Err(400))]
    #[tokio::test]
    async fn kinds(#[case] kind: &'static str, #[case] body: &'static str, #[case] expected: Result<(), u16>) {
        let read = json(&bodies(), "user:a", &headers(kind), Body::from(body)).await;
        assert_eq!(read.map(drop).map_err(|error| error.code.as_u16()), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn bounds() {
        let bodies = bodies();
        let code =
            async |body: Body| json(&bodies, "user:a", &headers("application/json"), body).await.err().unwrap().code;
        assert_eq!(code(Body::from(vec![b' '; MAX_BODY + 1])).await, StatusCode::PAYLOAD_TOO_LARGE);
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(code(Body::from(deep)).await, StatusCode::BAD_REQUEST);
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(code(stalled).await, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded_and_each_caller_has_a_part() {
        let bodies = bodies();
        let headers = headers("application/json");
        let one = async |who: &str| json(&bodies, who, &headers, Body::from(vec![b' '; MAX_BODY - 2])).await;
        // What is no JSON takes no room once that is answered.
        assert_eq!(one("user:a").await.err().unwrap().code, StatusCode::BAD_REQUEST);
        assert_eq!(bodies.used(), 0);
        let text = format!("\"{}\"", "x".repeat(MAX_BODY - 2));
        let one = async |who: &str| json(&bodies, who, &headers, Body::from(text.clone())).await;
        let mut held = Vec::new();
        for caller in 0..4 {
            let who = format!("user:{caller}");
            for _ in 0..MAX_OF_ONE / MAX_BODY {
                held.push(one(&who).await.ok().unwrap());
            }
            let code = if caller < 3 { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::SERVICE_UNAVAILABLE };
            assert_eq!(one(&who).await.err().unwrap().code, code);
        }
        held.pop();
        assert!(one("user:3").await.is_ok(), "room that was given back is taken again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_announced_and_does_not_come_takes_no_room() {
        let bodies = bodies();
        let mut headers = headers("application/json");
        headers.insert(header::CONTENT_LENGTH, MAX_BODY.into());
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let reading = json(&bodies, "user:a", &headers, stalled);
        let looking = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(bodies.used(), 0);
        };
        let (read, ()) = tokio::join!(reading, looking);
        assert_eq!(read.err().unwrap().code, StatusCode::REQUEST_TIMEOUT);
    }
}
