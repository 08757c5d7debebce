//! Parameters of calls: structs with their documentation, and the decoding of query parameters with
//! every problem. Pure: no client, no clock, no I/O.
//!
//! Doc comments of the structs' fields are descriptions in the `OpenAPI` document.

use std::collections::BTreeSet;

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::{
    decode::{TypeSchema, decode},
    error::{ApiError, Detail},
    idempotency,
};

/// Default page size, in items.
const DEFAULT_LIMIT: usize = 10;

/// Returns the default page size, in items.
pub(super) fn default_limit() -> usize {
    DEFAULT_LIMIT
}

/// Expected values of parameters whose schema has a pattern, in words.
const EXPECTED_VALUES: [(&str, &str); 3] = [
    ("namespace", "a namespace name"),
    ("status", "one of pending, running, completed, failed, cancelled"),
    ("until", "the value from a Link header"),
];

/// Returns the schema of query parameters.
pub(super) fn params_schema<T: IntoParams>() -> TypeSchema {
    TypeSchema::of_params::<T>(&EXPECTED_VALUES)
}

/// Path of a task.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct TaskPath {
    /// Name of the task
    #[param(max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    pub(super) id: String,
}

/// Path of a schedule.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct SchedulePath {
    /// Name of the schedule
    #[param(max_length = 253, pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    pub(super) id: String,
}

/// Header of calls that create a task.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IdempotencyKey {
    /// Key of your choice, 1 to 255 visible characters
    #[param(rename = "Idempotency-Key")]
    pub(super) key: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let key = idempotency::key_from_headers(&parts.headers)?.map(str::to_owned);
        Ok(Self { key })
    }
}

/// Header of calls whose response has an `ETag`.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the response evaluates the header; this is its documentation")]
pub(super) struct IfNoneMatch {
    /// `ETag` of an earlier response; the response is 304 while it is current
    #[param(rename = "If-None-Match")]
    etag: Option<String>,
}

/// Query parameters of a call.
pub(super) trait QueryParams: DeserializeOwned {
    /// Returns the schema of the parameters.
    fn schema() -> &'static TypeSchema;
}

/// Implements [`QueryParams`] by the documented schemas of the parameters.
macro_rules! impl_query_params {
    ($($name:ident),*) => {$(
        impl $crate::api::params::QueryParams for $name {
            fn schema() -> &'static $crate::api::decode::TypeSchema {
                static SCHEMA: std::sync::LazyLock<$crate::api::decode::TypeSchema> =
                    std::sync::LazyLock::new($crate::api::params::params_schema::<$name>);
                &SCHEMA
            }
        }
    )*};
}
pub(super) use impl_query_params;

/// Extractor of query parameters. The rejection is a 400 with every problem.
pub(super) struct CheckedQuery<T>(pub(super) T);

impl<S: Send + Sync, T: QueryParams> FromRequestParts<S> for CheckedQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        decode_query(parts.uri.query().unwrap_or_default())
            .map(Self)
            .map_err(ApiError::invalid_fields)
    }
}

/// Decodes a query string. The error lists every problem; a repeated parameter is one.
fn decode_query<T: QueryParams>(query: &str) -> Result<T, Vec<Detail>> {
    let schema = T::schema();
    let (mut names, mut repeated, mut values) = (BTreeSet::new(), BTreeSet::new(), Map::new());
    for (name, text) in form_urlencoded::parse(query.as_bytes()) {
        if !names.insert(name.clone()) {
            repeated.insert(name);
        } else if let Some(value) = schema.parse_param(&name, &text) {
            values.insert(name.into_owned(), value);
        }
    }
    let (decoded, mut problems) = decode(schema, Value::Object(values));
    for name in repeated.iter().filter(|name| schema.has_property(name)) {
        problems.add(name, "must not be repeated");
    }
    let without_pointer = |detail: Detail| Detail::new(detail.field, detail.message);
    problems.finish(decoded).map_err(|details| details.into_iter().map(without_pointer).collect())
}

/// Defines query parameters that consist of `namespace`.
macro_rules! namespace_queries {
    ($(#[doc = $doc:literal] $name:ident: $description:tt;)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $name {
            #[doc = $description]
            #[param(pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
            pub(super) namespace: Option<String>,
        }

        impl_query_params!($name);
    )*};
}

namespace_queries! {
    /// Query of a call for one task.
    TaskQuery: "Namespace of the task; required when several namespaces have a task of that name";
    /// Query of a call for one schedule.
    ScheduleQuery: "Namespace of the schedule; required when several namespaces have a schedule of \
                    that name";
    /// Query of a call that creates a task.
    CreateTaskQuery: "Namespace of the task when the body names none; with it the permission is \
                      checked before the body is read";
    /// Query of a call that creates a schedule.
    CreateScheduleQuery: "Namespace of the schedule when the body names none; with it the \
                          permission is checked before the body is read";
    /// Query of an extraction.
    ExtractQuery: "Namespace of workloads that name none; `default` when absent";
    /// Query of the numbers of objects.
    StatsQuery: "Count only objects of this namespace";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[into_params(parameter_in = Query)]
    struct Query {
        #[param(pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]
        namespace: Option<String>,
        #[serde(default = "default_limit")]
        #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
        limit: usize,
        enabled: Option<bool>,
        #[param(max_length = 3)]
        search: Option<String>,
    }

    impl_query_params!(Query);

    fn problems(query: &str) -> Vec<String> {
        let details = decode_query::<Query>(query).unwrap_err();
        assert!(details.iter().all(|detail| detail.pointer.is_none()), "{details:?}");
        let mut texts: Vec<String> = details.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }

    #[test]
    fn parameters_are_decoded() {
        let query = decode_query::<Query>("namespace=shop&limit=20&enabled=false&search=1");
        let expected = Query {
            namespace: Some("shop".into()),
            limit: 20,
            enabled: Some(false),
            search: Some("1".into()),
        };
        assert_eq!(query, Ok(expected));
    }

    #[test]
    fn every_problem_is_collected() {
        assert_eq!(
            problems("limit=101&namespace=No&enabled=yes&search=long&x=1"),
            [
                "enabled: \"yes\": expected true or false",
                "limit: 101: expected an integer from 1 to 100",
                "namespace: \"No\": expected a namespace name",
                "search: expected at most 3 characters",
                "x: unknown parameter",
            ]
        );
        assert_eq!(problems("limit=x"), ["limit: \"x\": expected an integer from 1 to 100"]);
        assert_eq!(problems("limit="), ["limit: \"\": expected an integer from 1 to 100"]);
        assert_eq!(problems("limit=1&limit=2"), ["limit: must not be repeated"]);
        assert_eq!(problems("limit=1.0"), ["limit: \"1.0\": expected an integer from 1 to 100"]);
    }

    #[test]
    fn empty_texts_count_as_absent() {
        let expected = Query { namespace: None, limit: 10, enabled: None, search: None };
        assert_eq!(decode_query::<Query>("namespace=&search="), Ok(expected));
    }
}
