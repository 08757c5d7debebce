//! Supervision of the components of the running service.
//!
//! A component is a future that must not end before shutdown is requested. One that ends or panics
//! earlier is reported as a failure with its name, and its supervisor ends as well: a service that
//! has lost a component must not appear healthy.
//!
//! The name of the running component is available to the panic hook, which logs each panic as one
//! line.

use std::{collections::HashMap, future::Future, panic::PanicHookInfo};

use prewarmer_core::controller::panic_message;
use tokio::{
    runtime::Handle,
    task::{Id, JoinError, JoinSet},
};

tokio::task_local! {
    /// Name of the component that the current task belongs to.
    static COMPONENT: &'static str;
}

/// Failure of a supervised component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComponentFailure {
    /// Component that returned before shutdown was requested.
    #[error("{part}: the component ended before shutdown")]
    Ended {
        /// Name of the component.
        part: &'static str,
    },
    /// Component that panicked.
    #[error("{part}: the component panicked: {message}")]
    Panicked {
        /// Name of the component.
        part: &'static str,
        /// Panic message, cut to a bounded length.
        message: String,
    },
}

impl ComponentFailure {
    /// Returns the name of the failed component.
    #[must_use]
    pub fn component(&self) -> &'static str {
        match self {
            Self::Ended { part } | Self::Panicked { part, .. } => part,
        }
    }
}

/// Set of running components, each with a name. Dropping the set aborts them.
#[derive(Default)]
pub struct ComponentSet {
    set: JoinSet<Result<(), ComponentFailure>>,
    names: HashMap<Id, &'static str>,
}

impl ComponentSet {
    /// Spawns a component on the current runtime.
    pub fn spawn(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.start(part, None, infallible(work));
    }

    /// Spawns a component on another runtime.
    pub fn spawn_on(
        &mut self,
        part: &'static str,
        runtime: &Handle,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.start(part, Some(runtime), infallible(work));
    }

    /// Spawns a component that supervises others and reports the failed one.
    pub fn spawn_supervisor(
        &mut self,
        part: &'static str,
        work: impl Future<Output = Result<(), ComponentFailure>> + Send + 'static,
    ) {
        self.start(part, None, work);
    }

    fn start(
        &mut self,
        part: &'static str,
        runtime: Option<&Handle>,
        work: impl Future<Output = Result<(), ComponentFailure>> + Send + 'static,
    ) {
        let work = COMPONENT.scope(part, work);
        let handle = match runtime {
            Some(runtime) => self.set.spawn_on(work, runtime),
            None => self.set.spawn(work),
        };
        self.names.insert(handle.id(), part);
    }

    /// Waits for the next component to end. Returns its name or its failure, and `None` when the
    /// set is empty.
    pub async fn next(&mut self) -> Option<Result<&'static str, ComponentFailure>> {
        let ended = self.set.join_next_with_id().await?;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let part = self.names.remove(&id).unwrap_or("unknown");
        Some(match ended {
            Ok((_, result)) => result.map(|()| part),
            Err(error) => {
                Err(ComponentFailure::Panicked { part, message: join_error_message(error) })
            }
        })
    }

    /// Waits for the first component to end and returns that as a failure. Never resolves when the
    /// set is empty.
    pub async fn next_failure(&mut self) -> ComponentFailure {
        match self.next().await {
            Some(ended) => {
                ended.map_or_else(|failure| failure, |part| ComponentFailure::Ended { part })
            }
            None => std::future::pending().await,
        }
    }

    /// Waits until all components have ended after a shutdown request. Returns the first failure,
    /// if any.
    pub async fn join_all(&mut self) -> Option<ComponentFailure> {
        let mut first = None;
        while let Some(ended) = self.next().await {
            if let Err(failure) = ended {
                tracing::error!(part = failure.component(), reason = %failure, "a component failed during shutdown");
                first.get_or_insert(failure);
            }
        }
        first
    }
}

async fn infallible(work: impl Future<Output = ()>) -> Result<(), ComponentFailure> {
    work.await;
    Ok(())
}

/// Runs `work` under the name of a component, for futures that are not spawned by a component set.
pub fn with_component_name<F: Future>(
    part: &'static str,
    work: F,
) -> impl Future<Output = F::Output> {
    COMPONENT.scope(part, work)
}

/// Returns the name of the component of the current task, if any.
#[must_use]
pub fn current_component() -> Option<&'static str> {
    COMPONENT.try_with(|part| *part).ok()
}

fn join_error_message(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => panic_message(payload.as_ref()),
        Err(error) => error.to_string(),
    }
}

/// Installs a panic hook that logs each panic as one line, with component, thread and source
/// location.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let message = panic_message(panic.payload());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let (thread, part) =
            (thread.name().unwrap_or("unnamed"), current_component().unwrap_or("none"));
        tracing::error!(part, thread, place, message, "panic");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_component_that_returns_is_reported_by_name() {
        let mut parts = ComponentSet::default();
        parts.spawn("idle", std::future::pending());
        parts.spawn("short", async {});
        let failure = parts.next_failure().await;
        assert_eq!(failure, ComponentFailure::Ended { part: "short" });
        assert_eq!(failure.to_string(), "short: the component ended before shutdown");
    }

    #[tokio::test]
    async fn a_component_that_panics_is_reported_with_its_message() {
        let mut parts = ComponentSet::default();
        parts.spawn("idle", std::future::pending());
        parts.spawn("bad", async { panic!("item {}", 7) });
        let failure = parts.next_failure().await;
        assert_eq!(failure, ComponentFailure::Panicked { part: "bad", message: "item 7".into() });
        assert_eq!(failure.component(), "bad");
    }

    #[tokio::test]
    async fn a_supervisor_reports_the_failed_component() {
        let mut parts = ComponentSet::default();
        parts.spawn_supervisor("outer", async { Err(ComponentFailure::Ended { part: "inner" }) });
        assert_eq!(parts.next().await, Some(Err(ComponentFailure::Ended { part: "inner" })));
        assert_eq!(parts.next().await, None);
    }

    #[tokio::test]
    async fn the_current_component_is_known() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut parts = ComponentSet::default();
        parts.spawn("curious", async { sender.send(current_component()).unwrap_or_default() });
        assert_eq!(receiver.await.unwrap(), Some("curious"));
        assert_eq!(current_component(), None);
        assert_eq!(parts.join_all().await, None);
    }
}
