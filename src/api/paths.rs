//! Path prefix of the REST calls.

/// Path prefix of all REST calls.
pub const BASE_PATH: &str = "/api/v1";
