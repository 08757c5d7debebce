//! Reading and creation of tasks by the commands.

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use prewarmer_core::{
    annotations::WORKLOADS_ANNOTATION,
    labels::{MANAGED_BY_PLUGIN, ORIGIN_LABEL},
    schedule::random_task_name,
    task::{PrewarmTask, PrewarmTaskSpec},
};

use super::{client::ClusterClient, error::CommandError};

/// Returns the tasks of these names.
pub(super) async fn get_tasks(
    context: &ClusterClient,
    names: &[String],
) -> Result<Vec<PrewarmTask>, CommandError> {
    let (api, mut tasks) = (context.namespaced::<PrewarmTask>(), Vec::new());
    for name in names {
        tasks.push(api.get(name).await?);
    }
    Ok(tasks)
}

/// Builds a task with the plugin's labels.
pub(super) fn build_task(
    namespace: String,
    workload: Option<&str>,
    spec: PrewarmTaskSpec,
) -> PrewarmTask {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [text(MANAGED_BY_PLUGIN.0, MANAGED_BY_PLUGIN.1), text(ORIGIN_LABEL, "user")];
    PrewarmTask {
        metadata: ObjectMeta {
            name: Some(random_task_name(Timestamp::now())),
            namespace: Some(namespace),
            labels: Some(labels.into()),
            annotations: workload.map(|workload| [text(WORKLOADS_ANNOTATION, workload)].into()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Creates a task in its namespace.
pub(super) async fn create_task(
    context: &ClusterClient,
    task: &PrewarmTask,
) -> Result<PrewarmTask, CommandError> {
    let namespace = task.namespace().unwrap_or_default();
    let tasks = Api::<PrewarmTask>::namespaced(context.client.clone(), &namespace);
    tasks.create(&PostParams::default(), task).await.map_err(CommandError::from)
}
