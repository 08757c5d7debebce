//! Counts of equal values.

/// Counts equal values, in the order of their first occurrence. Takes time proportional to the
/// number of distinct values for each value, which suits reasons and other values of a short list.
pub fn count_values<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<(T, usize)> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => counts.push((value, 1)),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_in_the_order_of_their_first_occurrence() {
        assert_eq!(count_values(["b", "a", "b", "c", "b"]), [("b", 3), ("a", 1), ("c", 1)]);
    }

    #[test]
    fn nothing_has_no_counts() {
        assert_eq!(count_values::<&str>([]), []);
    }
}
