//! State that all tasks share during a reconcile: capacity, budgets and caches.

use std::sync::Arc;

use super::{
    capacity::{Capacity, RegistryBudgets},
    measurement::Measurement,
    settings::ControllerSettings,
    warm_images::WarmImageCache,
};

/// State that all tasks share.
pub(super) struct ReconcileContext {
    pub(super) capacity: Capacity,
    pub(super) budgets: RegistryBudgets,
    pub(super) warm_images: WarmImageCache,
    pub(super) measurements: Vec<Measurement>,
    pub(super) settings: Arc<ControllerSettings>,
}

impl ReconcileContext {
    pub(super) fn new(settings: Arc<ControllerSettings>) -> Self {
        Self {
            capacity: Capacity::default(),
            budgets: RegistryBudgets::new(settings.registry_concurrency),
            warm_images: WarmImageCache::new(settings.warm_image_ttl),
            measurements: Vec::new(),
            settings,
        }
    }
}
