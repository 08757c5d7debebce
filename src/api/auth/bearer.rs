//! Authentication of a request by its `Authorization` header.

use std::net::IpAddr;

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, StatusCode, header, request::Parts},
};

use super::{
    address::caller_address,
    authenticate::{Auth, MAX_TOKEN_LEN},
    caller::Caller,
};
use crate::api::error::ApiError;

impl Auth {
    /// Authenticates a request by its `Authorization` header.
    async fn authenticate_request(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Caller, ApiError> {
        let token = if self.requires_token() { bearer_token(headers)? } else { "" };
        self.authenticate(token, from).await
    }
}

/// Returns the bearer token of the request's only `Authorization` header.
fn bearer_token(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let how = "send a token: -H \"Authorization: Bearer $TOKEN\"";
    let value = all.next().ok_or_else(|| ApiError::unauthorized(how))?;
    if all.next().is_some() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "the request has more than one Authorization header",
        ));
    }
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let token = text
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    token
        .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN_LEN)
        .ok_or_else(|| ApiError::unauthorized(how))
}

impl<S> FromRequestParts<S> for Caller
where
    Auth: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let auth = Auth::from_ref(state);
        let caller =
            auth.authenticate_request(&parts.headers, caller_address(&parts.extensions)).await?;
        auth.admit(&caller, &parts.extensions)?;
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["Bearer abc"], Ok("abc"))]
    #[case(&["bearer  abc "], Ok("abc"))]
    #[case(&[], Err(401))]
    #[case(&["Basic abc"], Err(401))]
    #[case(&["Bearer "], Err(401))]
    #[case(&["Bearer"], Err(401))]
    #[case(&["Bearer a", "Bearer b"], Err(400))]
    fn bearer_token_is_parsed_from_one_header(
        #[case] values: &[&'static str],
        #[case] expected: Result<&str, u16>,
    ) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        assert_eq!(bearer_token(&headers).map_err(|error| error.code.as_u16()), expected);
    }
}
