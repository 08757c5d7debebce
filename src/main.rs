//! The prewarmer program.
fn main() {}
