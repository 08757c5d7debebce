//! Extractor of the form of a page. A form that cannot be read becomes an error page.

use axum::{
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use prewarmer::api::pages::{FormBody, PagesApi};

use super::respond::PageError;

/// Form of a page. Handlers take it as their last argument: axum evaluates arguments in order, so
/// the user is authenticated before the body is read.
pub(super) struct PostedForm(pub(super) FormBody);

impl FromRequest<PagesApi> for PostedForm {
    type Rejection = Response;

    async fn from_request(request: Request, api: &PagesApi) -> Result<Self, Response> {
        let read = api.read_form(request).await;
        read.map(Self).map_err(|error| PageError::from(error).into_response())
    }
}
