//! Containment of panics: a panic in the work on one object ends that work only.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{effect::TaskRef, measurement::InternalError};
use crate::task::PrewarmTask;

/// Maximum length of a recorded panic message, in characters.
const MAX_PANIC_MESSAGE: usize = 500;

/// Returns the message of a panic, cut to a bounded length.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(MAX_PANIC_MESSAGE).collect()
}

/// Does the work on one object. A panic ends that work only. Values that the work has changed before
/// the panic must not be used again.
pub fn contain<T>(object: impl fmt::Display, work: impl FnOnce() -> T) -> Result<T, InternalError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| InternalError {
        object: object.to_string(),
        message: panic_message(payload.as_ref()),
    })
}

/// Task identification for log messages, which is computed only when it is written.
pub(super) struct TaskDisplay<'a>(pub(super) &'a PrewarmTask);

impl fmt::Display for TaskDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TaskRef::of(self.0).fmt(f)
    }
}
