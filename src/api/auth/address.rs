//! Client address of a request, as an extension of the request.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::Extensions;

/// Client address of a request, as the outermost layer has determined it.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct CallerAddress(pub(in crate::api) IpAddr);

/// Returns the client address of a request; 0.0.0.0 if no layer has set one.
#[must_use]
pub fn caller_address(extensions: &Extensions) -> IpAddr {
    extensions.get::<CallerAddress>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |from| from.0)
}
