//! Connection to the API server with the permissions of the caller, and its errors as one line
//! each.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde::de::DeserializeOwned;

use super::{args::GlobalArgs, error::CommandError};
use crate::scope::scoped;

/// Client of a cluster, and the selected namespace.
pub(super) struct ClusterClient {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// True where lists cover all namespaces.
    pub(super) all_namespaces: bool,
}

impl ClusterClient {
    /// Connects as the kubeconfig configures, or within a pod by its service account.
    pub(super) async fn connect(global: &GlobalArgs) -> Result<Self, CommandError> {
        let options =
            KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
        let wrong = |error: &dyn std::fmt::Display| {
            CommandError::Failed(format!("cannot use the kubeconfig: {error}"))
        };
        let mut config = if let Some(file) = &global.kubeconfig {
            let read = Kubeconfig::read_from(file).map_err(|error| wrong(&error))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?
        } else if global.context.is_some() {
            Config::from_kubeconfig(&options).await.map_err(|error| wrong(&error))?
        } else {
            Config::infer().await.map_err(|error| {
                let how = "found no kubeconfig: set KUBECONFIG or --kubeconfig";
                CommandError::Failed(format!("{how} ({})", root_cause(&error)))
            })?
        };
        if global.impersonate.is_some() {
            config.auth_info.impersonate.clone_from(&global.impersonate);
        }
        let namespace =
            global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| wrong(&error))?;
        Ok(Self { client, namespace, all_namespaces: global.all_namespaces })
    }

    /// Returns the API of the namespace.
    pub(super) fn namespaced<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns the API of the namespace, or of all namespaces.
    pub(super) fn scoped<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        scoped(&self.client, (!self.all_namespaces).then_some(self.namespace.as_str()))
    }
}

impl From<kube::Error> for CommandError {
    fn from(error: kube::Error) -> Self {
        Self::Failed(error_message(&error))
    }
}

/// Returns the innermost cause of an error, which is the specific one.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Returns one line: what failed, and what to do.
pub(super) fn error_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let message = status.message.trim();
            match ApiErrorKind::of_status(status) {
                ApiErrorKind::Unauthorized => {
                    "the cluster rejected your credentials: they are invalid or have expired".into()
                }
                kind if kind.is_forbidden() => format!("not permitted: {message}"),
                // For a missing object the API server returns its name; for a missing kind it
                // returns none.
                ApiErrorKind::NotFound
                    if status.details.as_ref().is_none_or(|details| details.name.is_empty()) =>
                {
                    "Prewarmer is not installed in this cluster: the custom resources are missing"
                        .into()
                }
                kind if kind.is_conflict() => {
                    format!("changed by another client, try again: {message}")
                }
                _ => message.to_owned(),
            }
        }
        kube::Error::Auth(error) => format!("cannot obtain credentials: {}", root_cause(error)),
        other => format!("cannot reach the API server: {}", root_cause(other)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(401, "Unauthorized", "", "rejected your credentials")]
    #[case(
        403,
        "prewarmtasks is forbidden: User \"eve\"",
        "",
        "not permitted: prewarmtasks is forbidden"
    )]
    #[case(404, "404 page not found\n", "", "not installed")]
    #[case(404, "prewarmtasks \"x\" not found", "x", "prewarmtasks \"x\" not found")]
    #[case(409, "changed", "x", "another client")]
    #[case(422, "spec.images: Invalid", "x", "spec.images: Invalid")]
    fn api_errors_are_one_line(
        #[case] code: u16,
        #[case] message: &str,
        #[case] name: &str,
        #[case] expected: &str,
    ) {
        let status =
            json!({"code": code, "message": message, "reason": "", "details": {"name": name}});
        let status: Status = serde_json::from_value(status).unwrap();
        let line = error_message(&kube::Error::Api(Box::new(status)));
        assert!(line.contains(expected) && !line.contains('\n'), "{line}");
    }
}
