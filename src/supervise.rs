//! Supervision of the parts of a running service.
//!
//! A part is a future that must not end before it is asked to. One that ends or panics earlier is a [`Failure`] that
//! names it, and whoever supervises it ends as well: a service that has lost a part must not look healthy.
//!
//! The name of the part at work is known to the panic hook, so that each panic is one line in the log.

use std::{
    any::Any,
    collections::HashMap,
    fmt::Display,
    future::Future,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
};

use tokio::{
    runtime::Handle,
    task::{Id, JoinError, JoinSet},
};

use crate::metrics::Metrics;

tokio::task_local! {
    /// The part that the present task belongs to.
    static PART: &'static str;
}

/// Characters of a panic's message that are kept.
const MAX_MESSAGE: usize = 500;

/// Why a supervised part is not at work any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It returned before it was asked to.
    #[error("{part}: the part ended before shutdown")]
    Ended {
        /// The part.
        part: &'static str,
    },
    /// It panicked.
    #[error("{part}: the part panicked: {message}")]
    Panicked {
        /// The part.
        part: &'static str,
        /// The panic's message.
        message: String,
    },
}

impl Failure {
    /// The part that failed.
    #[must_use]
    pub fn part(&self) -> &'static str {
        match self {
            Self::Ended { part } | Self::Panicked { part, .. } => part,
        }
    }
}

/// Parts at work, each under a name. Dropping them aborts them.
#[derive(Default)]
pub struct Parts {
    set: JoinSet<Result<(), Failure>>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// Starts a part on the present runtime.
    pub fn spawn(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.start(part, None, done(work));
    }

    /// Starts a part on another runtime.
    pub fn spawn_on(&mut self, part: &'static str, runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) {
        self.start(part, Some(runtime), done(work));
    }

    /// Starts a part that supervises others, and reports which of them failed.
    pub fn spawn_supervisor(
        &mut self,
        part: &'static str,
        work: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        self.start(part, None, work);
    }

    fn start(
        &mut self,
        part: &'static str,
        runtime: Option<&Handle>,
        work: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        let work = PART.scope(part, work);
        let handle = match runtime {
            Some(runtime) => self.set.spawn_on(work, runtime),
            None => self.set.spawn(work),
        };
        self.names.insert(handle.id(), part);
    }

    /// Waits for the next part that ends: its name, or how it failed. `None` when no part is left.
    pub async fn next(&mut self) -> Option<Result<&'static str, Failure>> {
        let ended = self.set.join_next_with_id().await?;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let part = self.names.remove(&id).unwrap_or("unknown");
        Some(match ended {
            Ok((_, result)) => result.map(|()| part),
            Err(error) => Err(Failure::Panicked { part, message: text_of(error) }),
        })
    }

    /// Waits for the first part that ends, where none may.
    pub async fn failed(&mut self) -> Failure {
        match self.next().await {
            Some(ended) => ended.map_or_else(|failure| failure, |part| Failure::Ended { part }),
            None => std::future::pending().await,
        }
    }

    /// Waits until all parts have ended, after they were asked to; the first that failed instead.
    pub async fn ended(&mut self) -> Option<Failure> {
        let mut first = None;
        while let Some(ended) = self.next().await {
            if let Err(failure) = ended {
                tracing::error!(part = failure.part(), reason = %failure, "a part failed while it ended");
                first.get_or_insert(failure);
            }
        }
        first
    }
}

async fn done(work: impl Future<Output = ()>) -> Result<(), Failure> {
    work.await;
    Ok(())
}

/// Runs `work` under the name of a part, where it is spawned by other means than [`Parts`].
pub fn named<F: Future>(part: &'static str, work: F) -> impl Future<Output = F::Output> {
    PART.scope(part, work)
}

/// The part at work where this is called, if any.
#[must_use]
pub fn part() -> Option<&'static str> {
    PART.try_with(|part| *part).ok()
}

fn text_of(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => message_of(payload.as_ref()),
        Err(error) => error.to_string(),
    }
}

/// The message of a panic, cut to a bounded length.
#[must_use]
pub fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(MAX_MESSAGE).collect()
}

/// Work on one object of somebody else's, as a label of `prewarm_internal_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The step of a task.
    Task,
    /// An effect of the controller.
    Effect,
    /// Reading what a watch delivers.
    Watch,
    /// The decision on a schedule.
    Schedule,
    /// A notification.
    Notification,
    /// Taking an object into the catalog.
    Catalog,
    /// What a workload asks for.
    Workload,
    /// An event of the kubelet.
    PodStart,
    /// Creating a task, or marking one as obsolete.
    Creation,
}

impl Work {
    /// All kinds of work.
    pub const ALL: [Self; 9] = [
        Self::Task,
        Self::Effect,
        Self::Watch,
        Self::Schedule,
        Self::Notification,
        Self::Catalog,
        Self::Workload,
        Self::PodStart,
        Self::Creation,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Effect => "effect",
            Self::Watch => "watch",
            Self::Schedule => "schedule",
            Self::Notification => "notification",
            Self::Catalog => "catalog",
            Self::Workload => "workload",
            Self::PodStart => "pod_start",
            Self::Creation => "creation",
        }
    }
}

/// Does `work` on one object. A panic ends that work and nothing else: it is counted and logged with the object, and `None`
/// is returned. What `work` has changed halfway must not be used again.
pub fn contain<T>(metrics: &Metrics, kind: Work, object: impl Display, work: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    result.map_err(|payload| contained(metrics, kind, object, payload.as_ref())).ok()
}

/// Counts and logs a panic that was contained.
pub fn contained(metrics: &Metrics, kind: Work, object: impl Display, payload: &(dyn Any + Send)) {
    metrics.internal_errors.with_label_values(&[kind.as_str()]).inc();
    let message = message_of(payload);
    tracing::error!(work = kind.as_str(), %object, message, "internal error: the work on this object has ended");
}

/// Logs each panic as one line, with the part, the thread and the place in the code.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let message = message_of(panic.payload());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let (thread, part) = (thread.name().unwrap_or("unnamed"), part().unwrap_or("none"));
        tracing::error!(part, thread, place, message, "panic");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_returns_is_named() {
        let mut parts = Parts::default();
        parts.spawn("idle", std::future::pending());
        parts.spawn("short", async {});
        let failure = parts.failed().await;
        assert_eq!(failure, Failure::Ended { part: "short" });
        assert_eq!(failure.to_string(), "short: the part ended before shutdown");
    }

    #[tokio::test]
    async fn a_part_that_panics_is_named_with_its_message() {
        let mut parts = Parts::default();
        parts.spawn("idle", std::future::pending());
        parts.spawn("bad", async { panic!("item {}", 7) });
        let failure = parts.failed().await;
        assert_eq!(failure, Failure::Panicked { part: "bad", message: "item 7".into() });
        assert_eq!(failure.part(), "bad");
    }

    #[tokio::test]
    async fn a_supervisor_reports_its_own_part() {
        let mut parts = Parts::default();
        parts.spawn_supervisor("outer", async { Err(Failure::Ended { part: "inner" }) });
        assert_eq!(parts.next().await, Some(Err(Failure::Ended { part: "inner" })));
        assert_eq!(parts.next().await, None);
    }

    #[test]
    fn a_panic_over_one_object_is_contained() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(contain(&metrics, Work::Task, "shop/a", || 7), Some(7));
        let nothing: Option<u32> = contain(&metrics, Work::Task, "shop/b", || panic!("no"));
        assert_eq!(nothing, None);
        let count = |kind: Work| metrics.internal_errors.with_label_values(&[kind.as_str()]).get();
        assert_eq!((count(Work::Task), count(Work::Watch)), (1, 0));
    }

    #[tokio::test]
    async fn a_part_knows_its_name() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut parts = Parts::default();
        parts.spawn("curious", async { sender.send(part()).unwrap_or_default() });
        assert_eq!(receiver.await.unwrap(), Some("curious"));
        assert_eq!(part(), None);
        assert_eq!(parts.ended().await, None);
    }
}
