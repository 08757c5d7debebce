//! Interface between a listener and what answers its requests.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use tower::ServiceExt;

use super::table::ConnectionSlot;

/// Connection on which a request arrived.
pub(crate) struct RequestOrigin {
    /// Address of the peer.
    pub(crate) peer: SocketAddr,
    /// Slot of the connection, for an HTTP/1.1 request, which may upgrade the connection.
    pub(crate) slot: Option<ConnectionSlot>,
}

/// Handler of the requests of a listener.
pub(crate) trait RequestHandler: Send + Sync + 'static {
    /// Answers a request.
    fn handle(
        &self,
        request: Request<Incoming>,
        origin: RequestOrigin,
    ) -> BoxFuture<'static, Response>;
}

/// A router. Its handlers find the origin in the extensions of the request.
impl RequestHandler for Router {
    fn handle(
        &self,
        request: Request<Incoming>,
        origin: RequestOrigin,
    ) -> BoxFuture<'static, Response> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(origin.peer));
        if let Some(slot) = origin.slot {
            request.extensions_mut().insert(slot);
        }
        let answer = self.clone().oneshot(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            response
        })
    }
}
