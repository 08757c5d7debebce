//! Watches that deliver objects to the controller, and their events.

/// Kind and namespace that a watch covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchSource {
    /// Resource, plural.
    pub kind: &'static str,
    /// Namespace that is watched. `None` means all namespaces.
    pub namespace: Option<String>,
}

impl WatchSource {
    /// Returns the watch of a resource in all namespaces.
    #[must_use]
    pub fn all(kind: &'static str) -> Self {
        Self { kind, namespace: None }
    }

    /// Reports whether the watch delivers objects of the namespace.
    #[must_use]
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// Watch event of one kind.
#[derive(Debug)]
pub enum WatchChange<T> {
    /// Object that was created or changed.
    Applied(T),
    /// Object that was deleted.
    Deleted(T),
    /// Complete list: the first one, or the one after a restart of the watch.
    Restarted(Vec<T>),
}
