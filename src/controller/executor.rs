//! Execution of effects, concurrently and within the term. `effect_client` and `collection` contain
//! the only code of the task controller that writes to the API server.

#[cfg(test)]
mod api_tests;
mod collection;
mod effect_client;
mod errors;
mod objects;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use kube::Client;
use prewarmer_core::controller::{
    ApplyError, Effect, EffectFinished, EffectOutput, Observation, TaskRef,
};
use prewarmer_kube::{
    lease::Term,
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, record_panic},
};
use tokio::sync::{Semaphore, mpsc::Sender};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::effect_client::EffectClient;
use crate::{node_checks::NodeChecks, supervise, telemetry::task_span};

/// Maximum number of concurrent creations and deletions. Enough to create a batch of 100 workers in
/// a moment, and few enough that API Priority and Fairness does not queue the requests. Statuses
/// and plans are not limited: a task writes one at a time.
const MAX_CONCURRENT_REQUESTS: usize = 32;

/// Applies effects while the term lasts, and reports their results. Effects that are still running
/// at the end of the term are aborted; the next leader decides again.
pub(super) struct Executor {
    client: Client,
    events: Sender<Observation>,
    object_errors: ObjectErrorMetrics,
    checks: Arc<NodeChecks>,
    permits: Arc<Semaphore>,
    term: Term,
    tasks: TaskTracker,
}

impl Executor {
    pub(super) fn new(
        client: Client,
        events: Sender<Observation>,
        object_errors: ObjectErrorMetrics,
        checks: Arc<NodeChecks>,
        term: Term,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
        Self { client, events, object_errors, checks, permits, term, tasks: TaskTracker::new() }
    }

    /// Waits until no effect is running. The term must have ended.
    pub(super) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts all effects concurrently.
    pub(super) fn spawn(&self, target: &TaskRef, effects: Vec<Effect>) {
        for effect in effects {
            let performer = EffectClient { client: self.client.clone(), target: target.clone() };
            let object_errors = self.object_errors.clone();
            let (events, permits, checks) =
                (self.events.clone(), Arc::clone(&self.permits), Arc::clone(&self.checks));
            let term = self.term.clone();
            let work = async move {
                let attempt = async {
                    match &effect {
                        Effect::CheckNodes(examination) => {
                            let findings = Some(Box::new(checks.evaluate(examination).await));
                            Ok(EffectOutput { check_results: findings, ..EffectOutput::default() })
                        }
                        Effect::WriteStatus(_) | Effect::CreatePlan(_) => {
                            performer.apply(&effect).await
                        }
                        _ => match permits.acquire().await {
                            Ok(_permit) => performer.apply(&effect).await,
                            Err(error) => Err(ApplyError::Transient(error.to_string())),
                        },
                    }
                };
                let result =
                    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|payload| {
                        let TaskRef { namespace, name, uid } = &performer.target;
                        let task = format!("PrewarmTask {namespace}/{name} ({uid})");
                        record_panic(&object_errors, WorkKind::Effect, task, payload.as_ref());
                        Err(ApplyError::Panicked)
                    });
                let uid = performer.target.uid;
                // Sending fails only after the controller has stopped and needs no result.
                let _ = events
                    .send(Observation::EffectFinished(EffectFinished {
                        task_uid: uid,
                        effect,
                        result,
                    }))
                    .await;
            };
            let span = task_span(&target.namespace, &target.name);
            let work = async move { term.run(work).await };
            self.tasks.spawn(supervise::with_component_name("controller", work.instrument(span)));
        }
    }
}
