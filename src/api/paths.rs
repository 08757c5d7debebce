//! Path prefixes of the REST calls and of the web pages.

/// Path prefix of all REST calls.
pub const BASE_PATH: &str = "/api/v1";

/// Path prefix of all pages.
pub(super) const HOME: &str = "/ui";
