//! A bounded amount of something (bytes, places) that many share, and of which each of them gets a part.
//!
//! Taking never waits: where there is nothing left the caller is told so at once, and answers 503 or 429. What was taken is
//! given back when the [`Taken`] is dropped.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Why nothing more can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All together have taken what there is.
    #[error("all of it is in use")]
    Total,
    /// This one has taken its part.
    #[error("this one has its whole part in use")]
    Own,
}

#[derive(Debug)]
struct State<K> {
    total: usize,
    own: HashMap<K, usize>,
}

#[derive(Debug)]
struct Inner<K> {
    total: usize,
    own: usize,
    state: Mutex<State<K>>,
}

/// A bounded amount, shared by those who are told apart by `K`. Clones share it.
#[derive(Debug)]
pub struct Budget<K: Hash + Eq>(Arc<Inner<K>>);

impl<K: Hash + Eq> Clone for Budget<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone> Budget<K> {
    /// Of `total`, and `own` for each.
    #[must_use]
    pub fn new(total: usize, own: usize) -> Self {
        let state = Mutex::new(State { total: 0, own: HashMap::new() });
        Self(Arc::new(Inner { total, own, state }))
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing yet; see [`Taken::more`].
    #[must_use]
    pub fn open(&self, key: K) -> Taken<K> {
        Taken { budget: self.clone(), key, amount: 0 }
    }

    /// Takes an amount.
    pub fn take(&self, key: K, amount: usize) -> Result<Taken<K>, Full> {
        let mut taken = self.open(key);
        taken.more(amount)?;
        Ok(taken)
    }

    /// How much is taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.lock().total
    }
}

/// What somebody has taken. Dropped, it is given back.
#[derive(Debug)]
pub struct Taken<K: Hash + Eq + Clone> {
    budget: Budget<K>,
    key: K,
    amount: usize,
}

impl<K: Hash + Eq + Clone> Taken<K> {
    /// Takes more; nothing where that would be too much.
    pub fn more(&mut self, amount: usize) -> Result<(), Full> {
        let mut state = self.budget.lock();
        let total = state.total.saturating_add(amount);
        if total > self.budget.0.total {
            return Err(Full::Total);
        }
        let own = state.own.get(&self.key).copied().unwrap_or_default().saturating_add(amount);
        if own > self.budget.0.own {
            return Err(Full::Own);
        }
        state.total = total;
        match state.own.get_mut(&self.key) {
            Some(known) => *known = own,
            None => drop(state.own.insert(self.key.clone(), own)),
        }
        drop(state);
        self.amount = self.amount.saturating_add(amount);
        Ok(())
    }
}

impl<K: Hash + Eq + Clone> Drop for Taken<K> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.total = state.total.saturating_sub(self.amount);
        if let Some(own) = state.own.get_mut(&self.key) {
            *own = own.saturating_sub(self.amount);
            if *own == 0 {
                state.own.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_and_each_part_are_bounded_and_come_back() {
        let budget = Budget::new(10, 6);
        let mut one = budget.take("a", 4).unwrap();
        assert_eq!(one.more(3).unwrap_err(), Full::Own);
        one.more(2).unwrap();
        assert_eq!(budget.take("a", 1).unwrap_err(), Full::Own);
        assert_eq!(budget.take("b", 5).unwrap_err(), Full::Total);
        let two = budget.take("b", 4).unwrap();
        assert_eq!(budget.used(), 10);
        drop(one);
        assert!(budget.take("a", 6).is_ok());
        drop(two);
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().own.is_empty(), "those who have nothing are forgotten");
    }
}
