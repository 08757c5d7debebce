//! Authorization of callers: an API token by its entry in the Secret, a user of Kubernetes by a
//! review of the API server.

use axum::http::StatusCode;

use super::{
    authenticate::Auth,
    caller::{Caller, CallerIdentity, NamespaceScope},
    reviews::Permission,
    tokens::ALL_NAMESPACES,
};
use crate::api::error::ApiError;

impl Auth {
    /// Checks a permission of the caller in the namespace. The error names the missing permission.
    pub async fn authorize(
        &self,
        caller: &Caller,
        deed: Permission,
        namespace: &str,
    ) -> Result<(), ApiError> {
        if self.allows(caller, deed, Some(namespace)).await? {
            return Ok(());
        }
        Err(forbidden(caller, deed, &format!("in the namespace {namespace}")))
    }

    /// Returns the namespaces in which the caller has the permission. A user of Kubernetes needs it
    /// in all namespaces; otherwise the error requires a namespace in the request.
    pub async fn namespace_scope(
        &self,
        caller: &Caller,
        deed: Permission,
    ) -> Result<NamespaceScope, ApiError> {
        if let CallerIdentity::Token { entry } = &caller.identity
            && entry.namespaces.iter().all(|name| name != ALL_NAMESPACES)
        {
            return Ok(NamespaceScope::Only(entry.namespaces.iter().cloned().collect()));
        }
        if self.allows(caller, deed, None).await? {
            return Ok(NamespaceScope::All);
        }
        Err(forbidden(caller, deed, "in all namespaces: specify one with ?namespace="))
    }

    /// Checks that the caller may list the cluster's nodes. The error names the missing permission.
    pub(in crate::api) async fn authorize_node_list(
        &self,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let deed = Permission { verb: "list", resource: "nodes" };
        if self.allows(caller, deed, None).await? {
            return Ok(());
        }
        Err(match caller.identity {
            CallerIdentity::Token { .. } => {
                let words = "may not list nodes: this requires an API token for all namespaces, or one created with --nodes";
                ApiError::new(StatusCode::FORBIDDEN, format!("{} {words}", caller.name))
            }
            _ => {
                ApiError::new(StatusCode::FORBIDDEN, format!("{} may not list nodes", caller.name))
            }
        })
    }

    /// Reports whether the caller has the permission in the namespace, or in all namespaces if
    /// `None`.
    pub async fn allows(
        &self,
        caller: &Caller,
        deed: Permission,
        namespace: Option<&str>,
    ) -> Result<bool, ApiError> {
        Ok(match &caller.identity {
            CallerIdentity::Anonymous => true,
            CallerIdentity::Token { entry } => {
                let all = entry.namespaces.iter().any(|name| name == ALL_NAMESPACES);
                let named = namespace
                    .is_some_and(|wanted| entry.namespaces.iter().any(|name| name == wanted));
                let place = all || named || deed.resource == "nodes" && entry.nodes;
                place && (deed.is_read() || !entry.read_only)
            }
            CallerIdentity::User(user) => match &self.reviews {
                Some(reviews) => {
                    reviews
                        .review_access((&caller.name, user), deed, namespace, &self.limits)
                        .await?
                }
                None => false,
            },
        })
    }
}

fn forbidden(caller: &Caller, deed: Permission, place: &str) -> ApiError {
    let Permission { verb, resource } = deed;
    ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{} may not {verb} {resource} {place}", caller.name),
    )
}
