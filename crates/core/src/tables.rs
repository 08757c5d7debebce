//! Capacity of hash tables.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// Capacity below which a table is not shrunk: a few kilobytes.
const MIN_CAPACITY: usize = 256;

/// Shrinks a table of which more than three quarters are unused, to twice the number of its entries.
/// A table keeps its capacity otherwise, however many entries are removed. Since it has to halve or
/// double before it is moved again, the moves cost each insertion and removal a constant amount.
pub fn shrink_sparse<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    let capacity = table.capacity();
    if capacity > MIN_CAPACITY && table.len() < capacity / 4 {
        table.shrink_to(table.len().saturating_mul(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_shrunk_when_most_of_it_is_unused() {
        let mut table: HashMap<usize, usize> = (0..10_000).map(|at| (at, at)).collect();
        let full = table.capacity();
        table.retain(|at, _| *at < full / 4);
        shrink_sparse(&mut table);
        assert_eq!(table.capacity(), full);
        table.retain(|at, _| *at < 1_000);
        shrink_sparse(&mut table);
        assert!((2_000..full / 2).contains(&table.capacity()), "{}", table.capacity());
        assert_eq!(table.len(), 1_000);
        table.clear();
        shrink_sparse(&mut table);
        assert_eq!(table.capacity(), 0);
    }
}
