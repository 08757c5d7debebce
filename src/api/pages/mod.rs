//! Interface for the web pages, which are modules of the binary and not of this library.
//!
//! Input: the caller of a page and typed values. Output: objects, or an [`ApiError`]. The pages use
//! the items of this module and no others of the library. [`PagesApi`] has the operations, each
//! with the checks of the REST call that does the same, and [`Pages`] is what the router serves. A
//! page checks no permission itself, except to hide what its user may not do.

mod schedules;
mod streams;
mod tasks;

use std::{net::IpAddr, sync::Arc};

use axum::{Router, extract::Request, http::Extensions, response::Response};
use prewarmer_core::node::NodeInfo;

pub use self::tasks::FoundTasks;
use super::{
    Api, body, call_middleware::AuditSubject, node_cache::NodeCache, permissions::LIST_NODES,
    service,
};
pub use super::{
    auth::{Caller, NamespaceScope, Permission, Revalidation, caller_address, is_same_origin},
    body::FormBody,
    cluster::success_permille,
    error::{ApiError, Detail},
    idempotency::{check_key, random_key},
    node_cache::NodeSelection,
    permissions::{
        CANCEL_TASK, CREATE_SCHEDULE, CREATE_TASK, DELETE_SCHEDULE, LIST_SCHEDULES, LIST_TASKS,
        UPDATE_SCHEDULE,
    },
    service::{schedules::TriggeredExecution, tasks::TaskSelection},
    static_response::StaticResponse,
    watch::REVIEW_INTERVAL,
};
pub use crate::task_view::{ImageDetail, TaskView};

/// Web pages, for the router of the API.
pub struct Pages {
    /// Path of the first page, to which `/` redirects.
    pub home: &'static str,
    /// Routes of all pages.
    pub routes: Router<PagesApi>,
}

/// Handle by which the pages use the API. Clones share its state.
#[derive(Clone)]
pub struct PagesApi {
    api: Api,
    pub(super) nodes: NodeCache,
}

impl PagesApi {
    /// Creates the handle for an API.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { nodes: NodeCache::new(api.client.clone()), api }
    }

    /// Authenticates a token; without authentication, returns an anonymous caller.
    pub async fn authenticate(&self, token: &str, from: IpAddr) -> Result<Caller, ApiError> {
        self.api.auth.authenticate(token, from).await
    }

    /// Records the caller's name for the access log and counts the call against its rate limit.
    pub fn admit(&self, caller: &Caller, extensions: &Extensions) -> Result<(), ApiError> {
        self.api.auth.admit(caller, extensions)
    }

    /// Reports whether callers must send a token.
    #[must_use]
    pub fn requires_token(&self) -> bool {
        self.api.auth.requires_token()
    }

    /// Returns the audience for which callers must create Kubernetes tokens; `None` for the API
    /// server's own.
    #[must_use]
    pub fn audience(&self) -> Option<&str> {
        self.api.auth.audience()
    }

    /// Reads a form within the budget of the caller, or of the client's IP address when it is not
    /// authenticated.
    pub async fn read_form(&self, request: Request) -> Result<FormBody, ApiError> {
        body::read_form(&self.api, request).await
    }

    /// Reports whether the caller has the permission in the namespace; false if the review fails.
    pub async fn allows(&self, caller: &Caller, deed: Permission, namespace: &str) -> bool {
        self.api.auth.allows(caller, deed, Some(namespace)).await.unwrap_or(false)
    }

    /// Returns the namespaces whose objects a list contains: the requested one, or all for which
    /// the caller has the permission.
    pub async fn visible_namespaces(
        &self,
        caller: &Caller,
        deed: Permission,
        namespace: Option<String>,
    ) -> Result<NamespaceScope, ApiError> {
        Ok(service::visible_namespaces(&self.api, caller, deed, namespace).await?)
    }

    /// Returns the namespace of requests that name none.
    #[must_use]
    pub fn default_namespace(&self) -> &str {
        self.api.default_namespace()
    }

    /// Reports whether this server watches one namespace only.
    #[must_use]
    pub fn watches_one_namespace(&self) -> bool {
        self.api.settings.watched_namespace.is_some()
    }

    /// Returns the nodes of the cluster; `None` if the caller may not list them, or if the API
    /// server does not answer.
    pub async fn permitted_nodes(&self, caller: &Caller) -> Option<Arc<Vec<NodeInfo>>> {
        if !self.api.auth.allows(caller, LIST_NODES, None).await.unwrap_or(false) {
            return None;
        }
        self.nodes.get().await.ok().map(|snapshot| snapshot.nodes)
    }
}

/// Names the object that a call changed in the audit log.
pub fn set_audit_subject(response: &mut Response, namespace: &str, name: &str) {
    response.extensions_mut().insert(AuditSubject(format!("{namespace}/{name}")));
}
