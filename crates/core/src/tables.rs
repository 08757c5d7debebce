//! Capacity of hash tables.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// Capacity to which every table may grow without being shrunk: a few kilobytes.
const MIN_CAPACITY: usize = 64;

/// Shrinks a table of which three quarters and more are unused, to four times the number of its
/// entries. A table keeps its buckets otherwise, however many entries are removed. At least half of
/// the entries of a shrunk table must be removed before it is shrunk again, so that the moves cost
/// each removal a constant amount.
pub fn shrink_sparse<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    // `capacity` cannot tell whether the table is sparse: it does not count the buckets of removed
    // entries that are not reusable yet. `shrink_to` compares the buckets themselves.
    table.shrink_to(table.len().saturating_mul(4).max(MIN_CAPACITY));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the capacity of a full table after all but `left` entries were removed.
    fn capacity_with(left: usize) -> usize {
        let mut table: HashMap<usize, usize> = (0..10_000).map(|at| (at, at)).collect();
        table.retain(|at, _| *at < left);
        shrink_sparse(&mut table);
        assert_eq!(table.len(), left);
        table.capacity()
    }

    #[test]
    fn a_table_is_shrunk_when_most_of_it_is_unused() {
        assert!((4_000..8_000).contains(&capacity_with(1_000)));
        assert!((MIN_CAPACITY..2 * MIN_CAPACITY).contains(&capacity_with(0)));
    }

    #[test]
    fn a_table_that_is_used_is_not_shrunk() {
        let mut table: HashMap<usize, usize> = (0..10_000).map(|at| (at, at)).collect();
        let full = table.capacity();
        (0..5_000).for_each(|at| assert!(table.remove(&at).is_some()));
        shrink_sparse(&mut table);
        // Entries that were removed are not reusable before the table is moved.
        table.extend((20_000..25_000).map(|at| (at, at)));
        assert!(table.capacity() >= 10_000 && table.capacity() <= full);
    }

    #[test]
    fn a_small_table_is_not_shrunk() {
        let mut table: HashMap<usize, usize> = HashMap::with_capacity(MIN_CAPACITY);
        let capacity = table.capacity();
        shrink_sparse(&mut table);
        assert_eq!(table.capacity(), capacity);
    }
}
