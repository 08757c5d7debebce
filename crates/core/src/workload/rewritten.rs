//! Comparison of a workload's images with those of its pods.

use std::collections::HashMap;

use super::view::ObjectView;
use crate::image::ImageRef;

/// Returns the images that a pod's containers have where they differ from the workload's template:
/// for each such container, a pair of the template's image and the pod's.
#[must_use]
pub fn rewritten_images(object: &ObjectView, pod: &ObjectView) -> Vec<(String, String)> {
    let pairs = object.templates.iter().zip(&pod.templates).flat_map(|(template, pod)| {
        let in_pod: HashMap<&str, &str> = pod.spec.images_by_container().collect();
        let both = move |(name, image): (&str, &str)| {
            Some((image.to_owned(), (*in_pod.get(name)?).to_owned()))
        };
        template.spec.images_by_container().filter_map(both)
    });
    let differs = |(one, other): &(String, String)| match (
        one.parse::<ImageRef>(),
        other.parse::<ImageRef>(),
    ) {
        (Ok(one), Ok(other)) => one != other,
        _ => false,
    };
    pairs.filter(differs).collect()
}
