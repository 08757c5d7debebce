//! File descriptors: each connection takes one, and without one nothing works.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For requests to the API server, notifications, files, and what the runtime needs.
const RESERVED: u64 = 256;

/// Connections of each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// For admission.
    pub webhook: usize,
    /// For REST.
    pub rest: usize,
    /// For health.
    pub health: usize,
}

/// Raises the limit of open files to the highest that is permitted. None: there is no limit.
#[must_use]
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, limit = limit.current, "the limit of open files could not be raised");
            limit.current
        }
    }
}

/// As many connections as there are file descriptors for, in the same proportions. *Pure.*
#[must_use]
pub fn fit(wanted: Connections, files: Option<u64>) -> Connections {
    let Some(files) = files else { return wanted };
    let room = usize::try_from(files.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    let all = wanted.webhook.saturating_add(wanted.rest).saturating_add(wanted.health);
    if all <= room {
        return wanted;
    }
    let part = |one: usize| (one.saturating_mul(room).checked_div(all).unwrap_or_default()).max(8);
    Connections { webhook: part(wanted.webhook), rest: part(wanted.rest), health: part(wanted.health) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_files() {
        let wanted = Connections { webhook: 1000, rest: 4096, health: 256 };
        assert_eq!(fit(wanted, None), wanted);
        assert_eq!(fit(wanted, Some(1_048_576)), wanted);
        let few = fit(wanted, Some(1024));
        assert!(few.webhook + few.rest + few.health <= 768, "{few:?}");
        assert!(few.webhook > 100 && few.rest > 500 && few.health > 30, "{few:?}");
        assert_eq!(fit(wanted, Some(0)), Connections { webhook: 8, rest: 8, health: 8 });
    }

    #[test]
    fn the_limit_is_raised_to_the_highest() {
        let limit = raise();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
    }
}
