//! Ensures that the node has an image before a container or volume uses it
//! (`EnsureImageExists` in `pkg/kubelet/images/image_manager.go`).

use std::sync::Arc;

use prewarmer_api::image::ImageRef;

use super::{
    backoff::Limits,
    event::{Event, never_pull_message},
    puller::{PullRequest, Pulled},
    record::{Problem, UsedImage},
    state::Kubelet,
};
use crate::{
    ids::PodId,
    pod::PullPolicy,
    registry::PullError,
    store::{StoredImage, digest_name},
    time::SimTime,
    world::World,
};

/// Waiting reason of a failed pull.
const ERR_IMAGE_PULL: &str = "ErrImagePull";
/// Waiting reason while a failed pull is not repeated yet.
const IMAGE_PULL_BACKOFF: &str = "ImagePullBackOff";
/// Waiting reason of an absent image under the policy `Never`.
const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
/// Waiting reason of an invalid reference.
const INVALID_IMAGE_NAME: &str = "InvalidImageName";

/// Image that a container or volume needs.
#[derive(Debug, Clone)]
pub(super) struct ImageNeed {
    /// Image reference as written.
    pub(super) image: String,
    pub(super) policy: PullPolicy,
    /// Path of the container for events; none for volumes.
    pub(super) field_path: Option<String>,
}

/// Result of [`Kubelet::ensure_image`].
#[derive(Debug)]
pub(super) enum Ensured {
    /// The node has the image, or cannot get it now.
    Ready(Result<UsedImage, Problem>),
    /// A pull was requested.
    Pulling,
}

impl Kubelet {
    /// Ensures that the node has an image that a pod needs.
    pub(super) fn ensure_image(
        &mut self,
        id: PodId,
        need: &ImageNeed,
        world: &mut World,
    ) -> Ensured {
        let Some(spec) = self.pods.get(&id).map(|pod| Arc::clone(&pod.spec)) else {
            return Ensured::Ready(Err(problem(ERR_IMAGE_PULL, String::new())));
        };
        let (image, path) = (need.image.as_str(), &need.field_path);
        let Ok(reference) = image.parse::<ImageRef>() else {
            let message = invalid_image_message(image);
            world.event(self.node, &spec, Event::invalid_image(message.clone(), path.clone()));
            return Ensured::Ready(Err(problem(INVALID_IMAGE_NAME, message)));
        };
        let stored = self.store.image(&reference);
        if need.policy != PullPolicy::Always
            && let Some(stored) = stored.filter(|stored| stored.is_accessible(&spec.secrets))
        {
            let used = used_image(stored, &reference);
            world.event(self.node, &spec, Event::present(image, path.clone()));
            return Ensured::Ready(Ok(used));
        }
        if need.policy == PullPolicy::Never {
            world.event(self.node, &spec, Event::never_pull(image, path.clone()));
            let message = never_pull_message(image);
            return Ensured::Ready(Err(problem(ERR_IMAGE_NEVER_PULL, message)));
        }
        if let Some(problem) = self.pull_backoff(id, image, world.now) {
            world.event(self.node, &spec, Event::pull_backoff(image, path.clone()));
            return Ensured::Ready(Err(problem));
        }
        if stored.is_none()
            && let Some(pod) = self.pods.get_mut(&id)
        {
            pod.mark_cold();
        }
        world.event(self.node, &spec, Event::pulling(image, path.clone()));
        let secrets = spec.secrets.clone();
        self.with_puller(|puller, host| {
            puller.push(PullRequest { pod: id, reference, secrets, is_cancelled: false });
            puller.start_waiting(host, world);
        });
        Ensured::Pulling
    }

    /// Returns the problem of an image whose pull has failed recently.
    fn pull_backoff(&self, id: PodId, image: &str, now: SimTime) -> Option<Problem> {
        let entry = self.pods.get(&id)?.pull_backoffs.get(image)?;
        let message = format!("Back-off pulling image \"{image}\": {}", entry.error);
        let waits = entry.backoff.waits_since_update(self.backoff_limits(), now);
        waits.then(|| problem(IMAGE_PULL_BACKOFF, message))
    }

    /// Handles the end of a pull that [`Self::ensure_image`] requested at `requested`.
    pub(super) fn image_pulled(
        &mut self,
        id: PodId,
        need: &ImageNeed,
        requested: SimTime,
        result: Result<Pulled, PullError>,
        world: &mut World,
    ) -> Result<UsedImage, Problem> {
        let limits = self.backoff_limits();
        let Some(pod) = self.pods.get_mut(&id) else {
            return Err(problem(ERR_IMAGE_PULL, String::new()));
        };
        let (image, path) = (need.image.as_str(), need.field_path.clone());
        let pulled = match result {
            Ok(pulled) => pulled,
            Err(error) => {
                let error = error.to_string();
                world.event(self.node, &pod.spec, Event::pull_failed(image, &error, path));
                let entry = pod.pull_backoffs.entry(image.to_owned()).or_default();
                entry.backoff.extend(limits, world.now, world.now);
                entry.error = format!("{ERR_IMAGE_PULL}: {error}");
                return Err(problem(ERR_IMAGE_PULL, error));
            }
        };
        if !pulled.was_present {
            pod.mark_cold();
        }
        let total = world.now.since(requested);
        let event = Event::pulled(image, pulled.time, total, pulled.size, path);
        world.event(self.node, &pod.spec, event);
        let reference = image.parse::<ImageRef>().ok();
        let used = reference.and_then(|reference| {
            self.store.image(&reference).map(|stored| used_image(stored, &reference))
        });
        used.ok_or_else(|| problem(ERR_IMAGE_PULL, String::new()))
    }

    /// Returns the limits of back-offs.
    pub(super) fn backoff_limits(&self) -> Limits {
        Limits { initial: self.settings.backoff_initial, max: self.settings.backoff_max }
    }
}

/// Returns the message of a reference that cannot be parsed, with the kubelet's texts around that of
/// `github.com/distribution/reference` (`ParseNormalizedNamed`).
fn invalid_image_message(image: &str) -> String {
    let repository = repository(image);
    let detail = if repository.chars().any(char::is_uppercase) {
        format!(": repository name ({repository}) must be lowercase")
    } else {
        String::new()
    };
    format!(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format{detail}"
    )
}

/// Returns the part of a reference between its domain and its tag, as `splitDockerDomain` does.
fn repository(image: &str) -> String {
    let is_domain = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
    };
    let rest = match image.split_once('/') {
        Some((first, rest)) if is_domain(first) => rest.to_owned(),
        Some(_) => image.to_owned(),
        None => format!("library/{image}"),
    };
    rest.split(':').next().unwrap_or_default().to_owned()
}

fn problem(reason: &'static str, message: String) -> Problem {
    Problem { reason, message }
}

fn used_image(stored: &StoredImage, reference: &ImageRef) -> UsedImage {
    let image = stored.image();
    UsedImage {
        id: image.id(),
        name: reference.normalized().to_owned(),
        digest_name: digest_name(reference, image.digest()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("registry.example/UPPER:1", ": repository name (UPPER) must be lowercase")]
    #[case("Upper", ": repository name (library/Upper) must be lowercase")]
    #[case("Team/web:1", "")]
    #[case("shop/Web@sha256", ": repository name (shop/Web@sha256) must be lowercase")]
    #[case("a b", "")]
    fn invalid_references_are_explained(#[case] image: &str, #[case] detail: &str) {
        let message = invalid_image_message(image);
        assert!(message.ends_with(&format!("invalid reference format{detail}")), "{message}");
        assert!(image.parse::<ImageRef>().is_err());
    }
}
