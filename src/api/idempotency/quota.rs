//! Limits of the number of stored keys, per caller and in total.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api as KubeApi, ResourceExt};
use tokio::sync::Mutex;

use super::leases::{CALLER_LABEL, delete_matching};
use crate::api::error::ApiError;

/// Largest number of stored keys in total: Leases of about 1 KB each, at most 20 MB in etcd.
const MAX_STORED_KEYS: usize = 20_000;
/// Interval after which the keys are counted again. Between two counts a replica adds only the keys
/// that it created itself.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(600);
/// `Retry-After` for a caller with too many keys, in seconds.
const RETRY_AFTER: u64 = 600;

/// Number of stored keys per caller, and their limit.
pub(in crate::api) struct KeyQuota {
    caller_limit: usize,
    counts: Mutex<KeyCounts>,
}

#[derive(Default)]
struct KeyCounts {
    by_caller: HashMap<String, usize>,
    total: usize,
    counted_at: Option<Instant>,
}

impl KeyCounts {
    fn add(&mut self, caller: &str) {
        self.total = self.total.saturating_add(1);
        let count = self.by_caller.entry(caller.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    fn remove(&mut self, caller: &str) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_caller.get_mut(caller) {
            *count = count.saturating_sub(1);
        }
    }

    /// Checks that the caller may store one more key. Error 429 at the caller's limit or the total
    /// limit. Pure: no client, no clock, no I/O.
    fn check_capacity(&self, caller: &str, own: usize) -> Result<(), ApiError> {
        let later = |words: String| {
            Err(ApiError::retry_after(StatusCode::TOO_MANY_REQUESTS, words, RETRY_AFTER))
        };
        if self.by_caller.get(caller).copied().unwrap_or_default() >= own {
            return later(format!(
                "you have used {own} Idempotency-Keys within a day, the limit of one caller: try again later"
            ));
        }
        if self.total >= MAX_STORED_KEYS {
            return later(format!(
                "{MAX_STORED_KEYS} Idempotency-Keys were used within a day, the limit of this server: try again later"
            ));
        }
        Ok(())
    }
}

impl KeyQuota {
    pub(in crate::api) fn new(own: usize) -> Self {
        Self { caller_limit: own, counts: Mutex::default() }
    }

    /// Reserves one key for the caller. Counts the stored keys first when the last count is too
    /// old.
    pub(super) async fn reserve(
        &self,
        leases: &KubeApi<Lease>,
        caller: &str,
    ) -> Result<(), ApiError> {
        let mut known = self.counts.lock().await;
        if known.counted_at.is_none_or(|at| at.elapsed() >= RECOUNT_INTERVAL) {
            let mut counted =
                KeyCounts { counted_at: Some(Instant::now()), ..KeyCounts::default() };
            delete_matching(leases, |lease| {
                counted.add(lease.labels().get(CALLER_LABEL).map_or("", String::as_str));
                None
            })
            .await?;
            *known = counted;
        }
        known.check_capacity(caller, self.caller_limit)?;
        known.add(caller);
        Ok(())
    }

    pub(super) async fn release(&self, caller: &str) {
        self.counts.lock().await.remove(caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_limited_per_caller_and_in_total() {
        let mut known = KeyCounts::default();
        for _ in 0..3 {
            assert!(known.check_capacity("a", 3).is_ok());
            known.add("a");
        }
        assert_eq!(known.check_capacity("a", 3).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
        assert!(known.check_capacity("b", 3).is_ok());
        known.remove("a");
        assert!(known.check_capacity("a", 3).is_ok());
        (0..MAX_STORED_KEYS).for_each(|index| known.add(&format!("c{index}")));
        assert_eq!(known.check_capacity("b", 3).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
    }
}
