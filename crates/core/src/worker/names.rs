//! Names and label values of valid length, derived from names of nodes and tasks.

use sha2::{Digest, Sha256};

/// Maximum length of a label value in Kubernetes, in bytes.
const MAX_LABEL_LENGTH: usize = 63;

/// Returns a name as a label value: unchanged if it fits, otherwise its beginning and a hash.
pub(crate) fn label_value(name: &str) -> String {
    if name.len() <= MAX_LABEL_LENGTH {
        return name.to_owned();
    }
    let hash = short_hash(&[name], 16);
    let keep = name
        .char_indices()
        .map(|(at, _)| at)
        .take_while(|at| at.saturating_add(17) <= MAX_LABEL_LENGTH)
        .last()
        .unwrap_or(0);
    format!("{}-{hash}", name.get(..keep).unwrap_or_default().trim_end_matches(['-', '.', '_']))
}

/// Prefix of worker names.
const WORKER_PREFIX: &str = "prewarm-";
/// Number of hexadecimal digits in worker names.
const WORKER_HASH_DIGITS: usize = 20;

/// Returns a worker name with 80 bits of SHA-256. The probability that two of 5,000 nodes get the
/// same name is 10^-17.
pub(super) fn worker_name(parts: &[&str]) -> String {
    format!("{WORKER_PREFIX}{}", short_hash(parts, WORKER_HASH_DIGITS))
}

/// Reports whether a pod name is that of a worker or of a pod of a worker Job.
#[must_use]
pub fn is_worker_pod_name(pod: &str) -> bool {
    let Some(rest) = pod.strip_prefix(WORKER_PREFIX) else { return false };
    let digits = rest.split('-').next().unwrap_or_default();
    digits.len() == WORKER_HASH_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the name of the Event for a phase of a task.
#[must_use]
pub fn event_name(task: &str, uid: &str, phase: &str) -> String {
    format!("{}.{}", label_value(task), short_hash(&[uid, phase], 16))
}

/// Returns the first `digits` hexadecimal digits of the SHA-256 over the parts.
pub(super) fn short_hash(parts: &[&str], digits: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let digest = hasher.finalize();
    crate::hex(digest.get(..digits / 2).unwrap_or(&digest))
}
