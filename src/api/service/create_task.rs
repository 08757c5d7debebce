//! Creation of a task in the API server.

use kube::{
    Api as KubeApi,
    api::{ObjectMeta, PostParams},
};
use prewarmer_core::{
    annotations::CREATED_BY_ANNOTATION,
    labels::{MANAGED_BY, ORIGIN_LABEL},
    task::{PrewarmTask, PrewarmTaskSpec},
};
use prewarmer_kube::api_error::ApiErrorKind;

use super::error::ServiceError;
use crate::api::{Api, auth::Caller};

/// Creates the task. With an `Idempotency-Key` (`by_key`) a task of that name may exist already,
/// created by an earlier or a concurrent call; that task is returned then, even to the call that
/// claimed the key.
pub(in crate::api) async fn create_or_get(
    api: &Api,
    namespace: &str,
    name: &str,
    spec: PrewarmTaskSpec,
    caller: &Caller,
    by_key: bool,
) -> Result<PrewarmTask, ServiceError> {
    let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
    let labels = [MANAGED_BY, (ORIGIN_LABEL, "rest")];
    let task = PrewarmTask {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: Some([(CREATED_BY_ANNOTATION.to_owned(), caller.name.clone())].into()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    match tasks.create(&PostParams::default(), &task).await {
        Ok(task) => Ok(task),
        Err(error) if by_key && ApiErrorKind::of(&error) == ApiErrorKind::AlreadyExists => {
            Ok(tasks.get(name).await?)
        }
        Err(error) => Err(ServiceError::of_creation(error, namespace)),
    }
}
