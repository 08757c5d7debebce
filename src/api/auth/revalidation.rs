//! Periodic revalidation of the caller of a stream, for as long as the stream is open.

use std::time::Duration;

use tokio::time::Instant;

use super::{Auth, Caller, Permission};
use crate::api::error::ApiError;

/// Maximum time for which a stream continues without a successful review of its caller's
/// permissions, because the API server does not answer or the Secret of API tokens cannot be read.
/// It is longer than a restart of the control plane, and short enough that an outage does not
/// preserve a revoked permission.
const MAX_UNCONFIRMED: Duration = Duration::from_secs(300);

/// Caller of a stream, with the time of its last successful review.
#[derive(Debug)]
pub struct Revalidation {
    caller: Caller,
    /// Time of the last successful review.
    confirmed: Instant,
}

impl Revalidation {
    /// Creates the state for a caller whose permissions have just been checked.
    #[must_use]
    pub fn new(caller: Caller) -> Self {
        Self { caller, confirmed: Instant::now() }
    }

    /// Returns the caller with the identity of the last review.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Reviews the caller's token and, if given, a permission in a namespace. Reports whether the
    /// stream may continue: without an answer, for at most [`MAX_UNCONFIRMED`].
    pub(in crate::api) async fn revalidate(
        &mut self,
        auth: &Auth,
        right: Option<(Permission, &str)>,
    ) -> bool {
        match self.check_access(auth, right).await {
            Ok(true) => {
                self.confirmed = Instant::now();
                true
            }
            Ok(false) => false,
            Err(_) => Self::is_recent(self.confirmed),
        }
    }

    /// Reports whether a confirmation at that time is recent enough for a stream to continue
    /// without an answer.
    #[must_use]
    pub fn is_recent(confirmed: Instant) -> bool {
        confirmed.elapsed() < MAX_UNCONFIRMED
    }

    async fn check_access(
        &mut self,
        auth: &Auth,
        right: Option<(Permission, &str)>,
    ) -> Result<bool, ApiError> {
        let Some(caller) = auth.reauthenticate(&self.caller).await? else { return Ok(false) };
        // Later checks use the new identity, whatever the result of this one.
        self.caller = caller;
        match right {
            Some((deed, namespace)) => auth.allows(&self.caller, deed, Some(namespace)).await,
            None => Ok(true),
        }
    }
}
