//! Deterministic random numbers.
//!
//! Every consumer has its own stream, named by a text. Another image or node therefore changes no
//! number that the existing ones draw, and two runs with one changed setting stay comparable.

use std::time::Duration;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use sha2::{Digest as _, Sha256};

use crate::time::micros;

/// Point of a distribution: share of all values in thousandths, and the value that this share does
/// not exceed.
pub type Quantile = (u64, u64);

/// Stream of random numbers that depends on nothing but its seed and name. The numbers are the same
/// on each platform and in each version of the generator (`ChaCha` with 8 rounds).
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// Creates the stream with this name.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name);
        Self(ChaCha8Rng::from_seed(hash.finalize().into()))
    }

    /// Draws a number below the bound; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.0.next_u64()).saturating_mul(u128::from(bound));
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// Draws a number between the two, both included; the lower one if they are in wrong order.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// Draws a duration below the bound, in microseconds.
    pub fn duration_below(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(micros(bound)))
    }

    /// Draws a value of a distribution given by quantiles in ascending order; linear between them.
    pub fn sample(&mut self, quantiles: &[Quantile]) -> u64 {
        let share = self.below(1_000);
        let next = quantiles.partition_point(|(bound, _)| *bound <= share);
        let upper = quantiles.get(next).or(quantiles.last()).copied().unwrap_or_default();
        let lower = quantiles.get(next.saturating_sub(1)).copied().unwrap_or(upper);
        let rise = upper.1.saturating_sub(lower.1);
        let distance = upper.0.saturating_sub(lower.0);
        let covered = share.saturating_sub(lower.0).min(distance);
        let part = u128::from(rise).saturating_mul(u128::from(covered));
        let part = part.checked_div(u128::from(distance)).unwrap_or_default();
        lower.1.saturating_add(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_name() {
        let draw = |seed, name| Random::new(seed, name).below(u64::MAX);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut random = Random::new(1, "bounds");
        for bound in [0, 1, 2, 1_000, u64::MAX] {
            assert!((0..100).all(|_| random.below(bound) < bound.max(1)));
        }
        assert!((0..100).all(|_| (5..=7).contains(&random.between(5, 7))));
        assert_eq!(random.between(7, 5), 7);
        assert_eq!(random.duration_below(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn samples_follow_the_quantiles() {
        let quantiles = [(0, 10), (500, 20), (900, 100), (1_000, 1_000)];
        let mut random = Random::new(1, "sample");
        let mut values: Vec<u64> = (0..10_000).map(|_| random.sample(&quantiles)).collect();
        values.sort_unstable();
        assert!((19..=22).contains(&values[5_000]), "{}", values[5_000]);
        assert!((90..=120).contains(&values[9_000]), "{}", values[9_000]);
        assert!(values[0] >= 10 && values[9_999] <= 1_000);
        assert_eq!(random.sample(&[]), 0);
        assert_eq!(random.sample(&[(500, 7)]), 7);
    }
}
