//! Requests of effects: the only code of the task controller that writes to the API server.

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Event, Pod},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Request},
    core::PartialObjectMeta,
};
use prewarmer_core::{
    controller::{
        ApplyError, Effect, EffectOutput, PhaseEvent, StatusWrite, TaskRef, WorkerCreation,
        WorkerDeletion,
    },
    task::{PrewarmPlan, PrewarmTask, WorkerKind},
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde::{Serialize, de::IgnoredAny};

use super::{
    collection::delete_workers,
    errors::map_api_error,
    objects::{delete_params, phase_event, plan_object, propagation_params, status_patch},
};

/// Client that applies the effects of one task.
pub(super) struct EffectClient {
    pub(super) client: Client,
    pub(super) target: TaskRef,
}

impl EffectClient {
    /// Applies an effect.
    pub(super) async fn apply(&self, effect: &Effect) -> Result<EffectOutput, ApplyError> {
        let (verb, resource) = effect.verb_and_resource();
        let result = self.send(effect).await.or_else(|error| map_api_error(effect, error));
        let TaskRef { name, namespace, .. } = &self.target;
        match &result {
            Err(
                ApplyError::Transient(message)
                | ApplyError::Rejected(_, message)
                | ApplyError::Unstorable(message),
            ) if !matches!(effect, Effect::DryRun(_)) => {
                tracing::warn!(
                    task = name,
                    namespace,
                    verb,
                    resource,
                    message,
                    "request to the API server failed"
                );
            }
            Err(ApplyError::Rejected(_, message)) => {
                tracing::info!(
                    task = name,
                    namespace,
                    message,
                    "the API server rejects worker pods in this namespace"
                );
            }
            Err(ApplyError::Conflict(message)) => {
                tracing::debug!(
                    task = name,
                    namespace,
                    message,
                    "object was changed or deleted concurrently"
                );
            }
            _ => {}
        }
        result
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn send(&self, effect: &Effect) -> kube::Result<EffectOutput> {
        let target = &self.target;
        match effect {
            Effect::CheckNodes(_) => {}
            Effect::CreatePlan(spec) => {
                let body = serialize(&plan_object(target, spec))?;
                self.create::<PrewarmPlan>(&target.namespace, body, &PostParams::default()).await?;
            }
            Effect::CreateWorker(creation) => self.create_worker(creation).await?,
            Effect::DryRun(pod) => {
                let dry = PostParams { dry_run: true, ..PostParams::default() };
                let namespace = pod.namespace().unwrap_or_default();
                self.create::<Pod>(&namespace, serialize(pod)?, &dry).await?;
            }
            Effect::DeleteWorker(deletion) => self.delete_worker(deletion).await?,
            Effect::DeleteWorkers(deletion) => {
                delete_workers(&self.client, &target.uid, deletion).await?;
            }
            Effect::WriteStatus(write) => return self.write_status(write).await,
            Effect::DeleteTask(version) => {
                let how = delete_params(DeleteParams::default(), &target.uid, version.clone());
                self.api::<PrewarmTask>(&target.namespace).delete(&target.name, &how).await?;
            }
        }
        Ok(EffectOutput::default())
    }

    async fn create_worker(&self, creation: &WorkerCreation) -> kube::Result<()> {
        let WorkerCreation { kind, namespace, body, .. } = creation;
        let post = PostParams::default();
        match kind {
            WorkerKind::Job => self.create::<Job>(namespace, body.clone(), &post).await,
            WorkerKind::Pod => self.create::<Pod>(namespace, body.clone(), &post).await,
        }
    }

    async fn delete_worker(&self, deletion: &WorkerDeletion) -> kube::Result<()> {
        let WorkerDeletion { kind, namespace, name, uid, propagation } = deletion;
        let how = delete_params(propagation_params(*propagation), uid, None);
        match kind {
            WorkerKind::Job => self.api::<Job>(namespace).delete(name, &how).await.map(drop),
            WorkerKind::Pod => self.api::<Pod>(namespace).delete(name, &how).await.map(drop),
        }
    }

    /// Creates an object. The response is not parsed: the watches deliver what is needed.
    async fn create<K>(&self, namespace: &str, body: Vec<u8>, how: &PostParams) -> kube::Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let request = Request::new(K::url_path(&(), Some(namespace)))
            .create(how, body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request::<IgnoredAny>(request).await.map(drop)
    }

    /// Writes the Events before the status. A crash in between then repeats the Events under the
    /// same names, and none is lost.
    async fn write_status(&self, write: &StatusWrite) -> kube::Result<EffectOutput> {
        for event in &write.events {
            self.create_event(event).await;
        }
        let patch = Patch::Merge(status_patch(write));
        let request = Request::new(PrewarmTask::url_path(&(), Some(&self.target.namespace)))
            .patch_subresource("status", &self.target.name, &PatchParams::default(), &patch)
            .map_err(kube::Error::BuildRequest)?;
        // Only the resource version of the response is parsed. The rest may be a task that cannot
        // be decoded.
        let written = self.client.request::<PartialObjectMeta<PrewarmTask>>(request).await?;
        Ok(EffectOutput {
            resource_version: written.metadata.resource_version,
            check_results: None,
        })
    }

    /// Creates an Event. A failure is logged and ignored, because Events are informative only.
    async fn create_event(&self, event: &PhaseEvent) {
        let events = self.api::<Event>(&self.target.namespace);
        match events
            .create(&PostParams::default(), &phase_event(&self.target, event, Timestamp::now()))
            .await
        {
            Ok(_) => {}
            Err(error) if ApiErrorKind::of(&error) == ApiErrorKind::AlreadyExists => {}
            Err(error) => tracing::debug!(task = self.target.name, %error, "cannot create Event"),
        }
    }
}

fn serialize(object: &impl Serialize) -> kube::Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(kube::Error::SerdeError)
}
