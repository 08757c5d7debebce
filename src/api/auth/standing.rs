//! The caller of a stream, whose rights are reviewed for as long as it lasts.

use std::time::Duration;

use tokio::time::Instant;

use super::{Auth, Caller, Deed};
use crate::api::error::ApiError;

/// How long a stream goes on while its caller's rights cannot be reviewed, because the API server, or the Secret of API tokens,
/// does not answer. Longer than a restart of the control plane takes, and short enough that an outage is no way to keep a
/// right that was revoked.
const UNCONFIRMED: Duration = Duration::from_secs(300);

/// The caller of a stream.
#[derive(Debug)]
pub(in crate::api) struct Standing {
    caller: Caller,
    /// When the caller's rights were confirmed last.
    confirmed: Instant,
}

impl Standing {
    /// A caller whose rights have just been checked.
    pub(in crate::api) fn new(caller: Caller) -> Self {
        Self { caller, confirmed: Instant::now() }
    }

    /// The caller, with the rights found by the last review.
    pub(in crate::api) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Reviews the caller's token and, where one is given, the right to do something in a namespace. Returns whether the stream may
    /// go on: no longer than [`UNCONFIRMED`] without an answer.
    pub(in crate::api) async fn review(&mut self, auth: &Auth, right: Option<(Deed, &str)>) -> bool {
        match self.reviewed(auth, right).await {
            Ok(true) => {
                self.confirmed = Instant::now();
                true
            }
            Ok(false) => false,
            Err(_) => Self::is_recent(self.confirmed),
        }
    }

    /// Whether rights that were confirmed then are recent enough for a stream to go on without an answer.
    pub(in crate::api) fn is_recent(confirmed: Instant) -> bool {
        confirmed.elapsed() < UNCONFIRMED
    }

    async fn reviewed(&mut self, auth: &Auth, right: Option<(Deed, &str)>) -> Result<bool, ApiError> {
        let Some(caller) = auth.renewed(&self.caller).await? else { return Ok(false) };
        // From now on with these rights, whatever follows.
        self.caller = caller;
        match right {
            Some((deed, namespace)) => auth.allows(&self.caller, deed, Some(namespace)).await,
            None => Ok(true),
        }
    }
}
