//! Paths of the pages.

/// Path of the overview, and path prefix of all pages.
pub(super) const HOME: &str = "/ui";
