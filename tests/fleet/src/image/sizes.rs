//! Sizes of generated images.
//!
//! Published figures:
//!
//! - N. Zhao et al., "Large-Scale Analysis of the Docker Hub Dataset", IEEE CLUSTER 2019: the
//!   latest images of Docker Hub in May 2017 have 17 MB compressed in the median and 0.48 GB at the
//!   90th percentile; 8 layers in the median, 18 at the 90th percentile, 120 at most; half of the
//!   layers have less than 4 MB; the median compression ratio of a layer is 2.6.
//! - A. Anwar et al., "Improving Docker Registry Design Based on Production Workload Analysis",
//!   USENIX FAST 2018: 65 % of the layers in the traces of IBM's registry have less than 1 MB, 80 %
//!   less than 10 MB.
//! - T. Harter et al., "Slacker", USENIX FAST 2016: gzip compresses the images of `HelloBench` by
//!   2.3 to 2.7.
//!
//! Everything else is an assumption: the ends of the distributions, the line between two published
//! points, and how an image's bytes are divided among its layers. The division is skewed, so that
//! most layers are small, as Anwar et al. found.

use crate::random::{Quantile, Random};

/// One megabyte, as the studies use the unit.
const MB: u64 = 1_000_000;

/// Compressed size of an image, in bytes. The point at 70 % is the geometric mean of its
/// neighbours: between the published points the logarithm is about linear.
const IMAGE_BYTES: [Quantile; 6] = [
    (0, MB),
    (500, 17 * MB),
    (700, 90 * MB),
    (900, 480 * MB),
    (990, 1_500 * MB),
    (1_000, 4_000 * MB),
];

/// Number of layers of an image. The point at 99 % is an assumption: 120 is the maximum of 355,319
/// images.
const LAYER_COUNTS: [Quantile; 5] = [(0, 1), (500, 8), (900, 18), (990, 40), (1_000, 120)];

/// Compression ratio of a layer, in thousandths.
const RATIOS: [Quantile; 3] = [(0, 1_000), (500, 2_600), (1_000, 5_000)];

/// Compressed size of a base image, in bytes (assumption: from a static base over Alpine Linux and
/// Debian to a language runtime).
const BASE_BYTES: [Quantile; 4] = [(0, MB), (500, 4 * MB), (800, 30 * MB), (1_000, 80 * MB)];

/// Number of layers of a base image (assumption).
const BASE_LAYERS: [Quantile; 3] = [(0, 1), (500, 1), (1_000, 5)];

/// Smallest compressed layer, in bytes: a tar archive without files, compressed by gzip.
const MIN_LAYER_BYTES: u64 = 32;

/// Sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    /// Bytes of the blob, which the registry transfers.
    pub compressed: u64,
    /// Bytes of the files in the unpacked layer.
    pub unpacked: u64,
}

/// Draws the compressed size and the number of layers of an image.
pub(super) fn draw_image(random: &mut Random) -> (u64, u64) {
    (random.sample(&IMAGE_BYTES), random.sample(&LAYER_COUNTS))
}

/// Draws the compressed size and the number of layers of a base image.
pub(super) fn draw_base(random: &mut Random) -> (u64, u64) {
    (random.sample(&BASE_BYTES), random.sample(&BASE_LAYERS))
}

/// Divides compressed bytes among `count` layers, each between a fifth and four fifths of what the
/// layers before it leave, and draws the unpacked size of each. At least one layer results.
pub(super) fn divide(bytes: u64, count: u64, random: &mut Random) -> Vec<LayerSize> {
    let mut rest = bytes;
    let mut layers = Vec::new();
    for _ in 1..count {
        let part = rest.saturating_mul(random.between(20, 80)) / 100;
        rest = rest.saturating_sub(part);
        layers.push(layer(part, random));
    }
    layers.push(layer(rest, random));
    layers
}

fn layer(bytes: u64, random: &mut Random) -> LayerSize {
    let compressed = bytes.max(MIN_LAYER_BYTES);
    LayerSize { compressed, unpacked: compressed.saturating_mul(random.sample(&RATIOS)) / 1_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divided_layers_have_the_bytes_of_the_image() {
        let mut random = Random::new(1, "divide");
        for (bytes, count) in [(100 * MB, 1), (100 * MB, 8), (480 * MB, 18)] {
            let layers = divide(bytes, count, &mut random);
            let sum: u64 = layers.iter().map(|layer| layer.compressed).sum();
            assert_eq!(layers.len() as u64, count);
            assert!(sum >= bytes && sum <= bytes + count * MIN_LAYER_BYTES, "{sum}");
            assert!(layers.iter().all(|layer| layer.unpacked >= layer.compressed));
        }
        assert_eq!(divide(0, 0, &mut random).len(), 1);
    }

    #[test]
    fn images_have_the_published_median_and_90th_percentile() {
        let mut random = Random::new(1, "images");
        let mut images: Vec<(u64, u64)> = (0..10_000).map(|_| draw_image(&mut random)).collect();
        images.sort_unstable();
        assert!((15 * MB..=19 * MB).contains(&images[5_000].0));
        assert!((440 * MB..=520 * MB).contains(&images[9_000].0));
        images.sort_unstable_by_key(|(_, layers)| *layers);
        assert!((7..=9).contains(&images[5_000].1));
        assert!((17..=19).contains(&images[9_000].1));
    }
}
