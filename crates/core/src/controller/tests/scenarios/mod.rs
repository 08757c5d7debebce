//! Single scenarios of a task in the simulated cluster.

mod batches;
mod deletions;
mod fixture;
mod lifecycle;
mod registries;
mod rejections;
mod warm_images;
