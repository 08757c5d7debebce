//! Names and labels that fit, whatever the names of nodes and tasks.

use sha2::{Digest, Sha256};

/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// A name as a label's value: as it is where it fits, else its beginning and a hash.
pub(crate) fn label_value(name: &str) -> String {
    if name.len() <= MAX_LABEL {
        return name.to_owned();
    }
    let hash = short_hash(&[name], 16);
    let keep =
        name.char_indices().map(|(at, _)| at).take_while(|at| at.saturating_add(17) <= MAX_LABEL).last().unwrap_or(0);
    format!("{}-{hash}", name.get(..keep).unwrap_or_default().trim_end_matches(['-', '.', '_']))
}

/// What the names of workers begin with.
const WORKER_PREFIX: &str = "prewarm-";
/// Hexadecimal digits in them.
const WORKER_DIGITS: usize = 20;

/// A worker's name. 80 bits of SHA-256: two of 5,000 nodes share one with a chance of 10^-17.
pub(super) fn worker_name(parts: &[&str]) -> String {
    format!("{WORKER_PREFIX}{}", short_hash(parts, WORKER_DIGITS))
}

/// Whether a pod of this name is a worker, or of a worker's Job.
#[must_use]
pub fn is_worker(pod: &str) -> bool {
    let Some(rest) = pod.strip_prefix(WORKER_PREFIX) else { return false };
    let digits = rest.split('-').next().unwrap_or_default();
    digits.len() == WORKER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The name of the Event that tells of a task's phase.
pub(crate) fn event_name(task: &str, uid: &str, phase: &str) -> String {
    format!("{}.{}", label_value(task), short_hash(&[uid, phase], 16))
}

/// The first `digits` hexadecimal digits of the SHA-256 over the parts.
pub(super) fn short_hash(parts: &[&str], digits: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let digest = hasher.finalize();
    crate::hex(digest.get(..digits / 2).unwrap_or(&digest))
}
