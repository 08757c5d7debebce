//! Keyed hashes, by which caches identify tokens and users without storing them.

use sha2::{Digest, Sha256};

/// Keyed hash that identifies a text in caches without storing the text.
pub(super) type Fingerprint = [u8; 32];

/// Random key for fingerprints. Fingerprints of one process reveal nothing about those of another.
#[derive(Clone)]
pub(super) struct FingerprintKey([u8; 32]);

impl Default for FingerprintKey {
    fn default() -> Self {
        Self(rand::random())
    }
}

impl FingerprintKey {
    pub(super) fn fingerprint(&self, text: &[u8]) -> Fingerprint {
        Sha256::new().chain_update(self.0).chain_update(text).finalize().into()
    }
}
