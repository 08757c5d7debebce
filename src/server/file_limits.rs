//! File descriptor limits: adapts the number of connections to `RLIMIT_NOFILE`, because each
//! connection uses a descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors reserved for requests to the API server, notifications, files and the runtime.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Maximum number of connections of each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Connections of the webhook listener.
    pub webhook: usize,
    /// Connections of the REST listener; 0 without one.
    pub rest: usize,
    /// Connections of the health listener.
    pub health: usize,
}

/// Raises the soft limit of open files to the hard limit and returns the resulting limit. `None`
/// means unlimited.
#[must_use]
pub(crate) fn raise_nofile_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, limit = limit.current, "the limit of open files (RLIMIT_NOFILE) could not be raised");
            limit.current
        }
    }
}

/// Reduces the numbers of connections proportionally to the limit of file descriptors, to 8 per
/// listener at the least.
#[must_use]
pub(crate) fn fit_to_nofile_limit(
    wanted: ConnectionLimits,
    files: Option<u64>,
) -> ConnectionLimits {
    let Some(files) = files else { return wanted };
    let room = usize::try_from(files.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX);
    let all = wanted.webhook.saturating_add(wanted.rest).saturating_add(wanted.health);
    if all <= room {
        return wanted;
    }
    let part = |one: usize| (one.saturating_mul(room).checked_div(all).unwrap_or_default()).max(8);
    ConnectionLimits {
        webhook: part(wanted.webhook),
        rest: part(wanted.rest),
        health: part(wanted.health),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_files() {
        let wanted = ConnectionLimits { webhook: 1000, rest: 4096, health: 256 };
        assert_eq!(fit_to_nofile_limit(wanted, None), wanted);
        assert_eq!(fit_to_nofile_limit(wanted, Some(1_048_576)), wanted);
        let few = fit_to_nofile_limit(wanted, Some(1024));
        assert!(few.webhook + few.rest + few.health <= 768, "{few:?}");
        assert!(few.webhook > 100 && few.rest > 500 && few.health > 30, "{few:?}");
        assert_eq!(
            fit_to_nofile_limit(wanted, Some(0)),
            ConnectionLimits { webhook: 8, rest: 8, health: 8 }
        );
    }

    #[test]
    fn the_limit_is_raised_to_the_highest() {
        let limit = raise_nofile_limit();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
    }
}
