//! Body of a call that creates an object, and the namespace of the object. No other field of the body
//! is evaluated before the caller's permission in that namespace is checked.

use axum::{body::Body, http::HeaderMap};
use serde_json::Value;

use prewarmer_core::dns;

use super::{
    Api,
    auth::{Caller, Permission},
    body::{self, JsonBody},
    bounded_json::{self, MAX_VALUES},
    error::{ApiError, Detail},
    field_path::FieldPath,
};

/// Reads the body, and returns it with the namespace of the object. When the query (`named`) or a
/// setting names the namespace, the caller's permission is checked before the body is read.
pub(super) async fn read_authorized_body(
    api: &Api,
    caller: &Caller,
    deed: Permission,
    named: Option<String>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, JsonBody), ApiError> {
    authorize_known_namespace(api, caller, deed, named.as_deref()).await?;
    let mut body = body::read_json(&api.budgets.bodies, &caller.name, headers, body).await?;
    let namespace = authorize_body(api, caller, deed, named, &mut body.value).await?;
    Ok((namespace, body))
}

/// Checks a body that was built from a form of the pages, in the same order as
/// [`read_authorized_body`]. Returns the namespace of the object.
pub(super) async fn authorize_form(
    api: &Api,
    caller: &Caller,
    deed: Permission,
    body: &mut Value,
) -> Result<String, ApiError> {
    authorize_known_namespace(api, caller, deed, None).await?;
    bounded_json::check(body, MAX_VALUES)
        .map_err(|error| ApiError::invalid_field("", format!("the form is not valid: {error}")))?;
    authorize_body(api, caller, deed, None, body).await
}

/// Checks the caller's permission in the namespace of the query or of the setting, when one of them
/// names it.
async fn authorize_known_namespace(
    api: &Api,
    caller: &Caller,
    deed: Permission,
    named: Option<&str>,
) -> Result<(), ApiError> {
    let Some(namespace) = named.or(api.settings.watched_namespace.as_deref()) else {
        return Ok(());
    };
    api.check_namespace(namespace)?;
    api.auth.authorize(caller, deed, namespace).await
}

/// Returns the namespace of the object after checking the caller's permission in it. A body without
/// a namespace gets that of the query.
async fn authorize_body(
    api: &Api,
    caller: &Caller,
    deed: Permission,
    named: Option<String>,
    body: &mut Value,
) -> Result<String, ApiError> {
    // An invalid namespace name is reported with the other fields, to callers that have the
    // permission in some namespace.
    let given = body
        .get("namespace")
        .and_then(Value::as_str)
        .filter(|name| dns::is_label(name))
        .map(str::to_owned);
    if let (Some(named), Some(given)) = (&named, &given)
        && named != given
    {
        return Err(ApiError::invalid_fields(vec![Detail::in_body(
            &FieldPath::parse("namespace"),
            format!("{given:?}: differs from the namespace of the query, {named:?}"),
        )]));
    }
    let namespace = given
        .or_else(|| named.clone())
        .unwrap_or_else(|| api.default_namespace_of(caller).to_owned());
    api.check_namespace(&namespace)?;
    api.auth.authorize(caller, deed, &namespace).await?;
    if let (Some(named), Some(fields)) = (named, body.as_object_mut())
        && fields.get("namespace").is_none_or(Value::is_null)
    {
        fields.insert("namespace".into(), named.into());
    }
    Ok(namespace)
}
