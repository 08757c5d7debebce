//! Extractor of the form of a page. A form that cannot be read becomes an error page.

use axum::{
    extract::{FromRef, FromRequest, Request},
    response::{IntoResponse, Response},
};

use super::respond::PageError;
use crate::api::{
    Api,
    body::{FormBody, read_form},
};

impl<S: Send + Sync> FromRequest<S> for FormBody
where
    Api: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        read_form(&Api::from_ref(state), request)
            .await
            .map_err(|error| PageError::from(error).into_response())
    }
}
