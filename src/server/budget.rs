//! Bounded amount of a resource (bytes, connections) that is shared by several keys, with a limit
//! for each key.
//!
//! Acquisition never waits: where the budget is exhausted, the caller gets an error at once and
//! answers 503 or 429. Dropping the permit releases its amount.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Limit that an acquisition would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BudgetExceeded {
    /// Limit of all keys together.
    #[error("the total budget is exhausted")]
    Total,
    /// Limit of this key.
    #[error("the budget of this key is exhausted")]
    PerKey,
}

#[derive(Debug)]
struct BudgetState<K> {
    total: usize,
    by_key: HashMap<K, usize>,
}

#[derive(Debug)]
struct BudgetInner<K> {
    total: usize,
    per_key_limit: usize,
    state: Mutex<BudgetState<K>>,
}

/// Bounded amount shared by the keys of type `K`. Clones share the budget.
#[derive(Debug)]
pub(crate) struct SharedBudget<K: Hash + Eq>(Arc<BudgetInner<K>>);

impl<K: Hash + Eq> Clone for SharedBudget<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> SharedBudget<K> {
    /// Creates a budget of `total`, of which each key may acquire at most `own`.
    #[must_use]
    pub(crate) fn new(total: usize, own: usize) -> Self {
        let state = Mutex::new(BudgetState { total: 0, by_key: HashMap::new() });
        Self(Arc::new(BudgetInner { total, per_key_limit: own, state }))
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an empty permit, which can be grown.
    #[must_use]
    pub(crate) fn empty_permit(&self, key: K) -> BudgetPermit<K> {
        BudgetPermit { budget: self.clone(), key, amount: 0 }
    }

    /// Acquires an amount. Fails when the total limit or the limit of the key would be exceeded.
    pub(crate) fn try_acquire(
        &self,
        key: K,
        amount: usize,
    ) -> Result<BudgetPermit<K>, BudgetExceeded> {
        let mut taken = self.empty_permit(key);
        taken.try_grow(amount)?;
        Ok(taken)
    }

    /// Returns the acquired amount of all keys.
    #[must_use]
    pub(crate) fn used(&self) -> usize {
        self.lock().total
    }
}

/// Permit for an acquired amount. Dropping it releases the amount.
#[derive(Debug)]
pub(crate) struct BudgetPermit<K: Hash + Eq + Clone> {
    budget: SharedBudget<K>,
    key: K,
    amount: usize,
}

impl<K: Hash + Eq + Clone> BudgetPermit<K> {
    /// Acquires a further amount. On error the permit is unchanged.
    pub(crate) fn try_grow(&mut self, amount: usize) -> Result<(), BudgetExceeded> {
        let mut state = self.budget.lock();
        let total = state.total.saturating_add(amount);
        if total > self.budget.0.total {
            return Err(BudgetExceeded::Total);
        }
        let own = state.by_key.get(&self.key).copied().unwrap_or_default().saturating_add(amount);
        if own > self.budget.0.per_key_limit {
            return Err(BudgetExceeded::PerKey);
        }
        state.total = total;
        match state.by_key.get_mut(&self.key) {
            Some(known) => *known = own,
            None => drop(state.by_key.insert(self.key.clone(), own)),
        }
        drop(state);
        self.amount = self.amount.saturating_add(amount);
        Ok(())
    }
}

impl<K: Hash + Eq + Clone> Drop for BudgetPermit<K> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.total = state.total.saturating_sub(self.amount);
        if let Some(own) = state.by_key.get_mut(&self.key) {
            *own = own.saturating_sub(self.amount);
            if *own == 0 {
                state.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_and_per_key_limits_hold_and_permits_are_released() {
        let budget = SharedBudget::new(10, 6);
        let mut one = budget.try_acquire("a", 4).unwrap();
        assert_eq!(one.try_grow(3).unwrap_err(), BudgetExceeded::PerKey);
        one.try_grow(2).unwrap();
        assert_eq!(budget.try_acquire("a", 1).unwrap_err(), BudgetExceeded::PerKey);
        assert_eq!(budget.try_acquire("b", 5).unwrap_err(), BudgetExceeded::Total);
        let two = budget.try_acquire("b", 4).unwrap();
        assert_eq!(budget.used(), 10);
        drop(one);
        assert!(budget.try_acquire("a", 6).is_ok());
        drop(two);
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().by_key.is_empty(), "a key without permits is removed");
    }
}
