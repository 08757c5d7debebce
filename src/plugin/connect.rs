//! The API server, with the rights of whoever calls; and what it says when it refuses, in one line.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;

use super::{Failure, args::Global};

/// A way to a cluster, and the namespace that is meant.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// Whether lists are of all namespaces.
    pub(super) everywhere: bool,
}

impl Context {
    /// Reads the kubeconfig; within a pod, its service account will do.
    pub(super) async fn connect(global: &Global) -> Result<Self, Failure> {
        let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
        let wrong = |error: &dyn std::fmt::Display| Failure::Failed(format!("the kubeconfig cannot be used: {error}"));
        let mut config = if let Some(file) = &global.kubeconfig {
            let read = Kubeconfig::read_from(file).map_err(|error| wrong(&error))?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?
        } else if global.context.is_some() {
            Config::from_kubeconfig(&options).await.map_err(|error| wrong(&error))?
        } else {
            Config::infer().await.map_err(|error| {
                let how = "there is no kubeconfig to be used: set KUBECONFIG, or name one by --kubeconfig";
                Failure::Failed(format!("{how} ({})", root(&error)))
            })?
        };
        if global.impersonate.is_some() {
            config.auth_info.impersonate.clone_from(&global.impersonate);
        }
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| wrong(&error))?;
        Ok(Self { client, namespace, everywhere: global.all_namespaces })
    }

    /// Objects of the namespace.
    pub(super) fn here<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of the namespace, or of all.
    pub(super) fn listed<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        if self.everywhere { Api::all(self.client.clone()) } else { self.here() }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Failed(explain(&error))
    }
}

/// The last cause of an error: the one that says something.
fn root(error: &dyn std::error::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// One line: what was refused, and what to do.
pub(super) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let message = status.message.trim();
            match status.code {
                401 => "the cluster does not know you: your credentials are wrong or have expired".into(),
                403 => format!("you have not the right: {message}"),
                // Of an object that is missing the API server gives the name; of a kind it knows nothing.
                404 if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => {
                    "Prewarmer is not installed in this cluster: it has no PrewarmTasks".into()
                }
                409 => format!("somebody else was quicker: {message}"),
                _ => message.to_owned(),
            }
        }
        kube::Error::Auth(error) => format!("your credentials could not be had: {}", root(error)),
        other => format!("the API server does not answer: {}", root(other)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(401, "Unauthorized", "", "the cluster does not know you")]
    #[case(403, "prewarmtasks is forbidden: User \"eve\"", "", "you have not the right: prewarmtasks is forbidden")]
    #[case(404, "404 page not found\n", "", "not installed")]
    #[case(404, "prewarmtasks \"x\" not found", "x", "prewarmtasks \"x\" not found")]
    #[case(409, "changed", "x", "quicker")]
    #[case(422, "spec.images: Invalid", "x", "spec.images: Invalid")]
    fn refusals(#[case] code: u16, #[case] message: &str, #[case] name: &str, #[case] expected: &str) {
        let status = json!({"code": code, "message": message, "reason": "", "details": {"name": name}});
        let status: Status = serde_json::from_value(status).unwrap();
        let line = explain(&kube::Error::Api(Box::new(status)));
        assert!(line.contains(expected) && !line.contains('\n'), "{line}");
    }
}
