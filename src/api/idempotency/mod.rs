//! `Idempotency-Key`: a repeated call creates no second task, on whichever replica it arrives.
//!
//! A Lease is created before the task. Its name is derived from the caller, the namespace and the
//! key, and it holds the task's name: of two concurrent calls one creates the Lease, and the other
//! reads the task's name from it. After the task is created, the Lease is annotated, so that a call
//! that is repeated after the deletion of the task does not create it again.
//!
//! The Leases are in Prewarmer's own namespace, where no quota of the caller applies. This module
//! therefore bounds their number, per caller and in total.

mod claim;
mod expiry;
mod key;
mod leases;
mod quota;

pub(super) use self::{claim::create_or_get_by_key, key::key_from_headers, quota::KeyQuota};
pub use self::{
    expiry::collect_expired_keys,
    key::{check_key, random_key},
};
