//! Classification of pod starts as warm or cold. Pure: no client, no clock, no I/O.

use std::time::Duration;

use jiff::Timestamp;

use super::event::ImageEvent;

/// Maximum duration of a manifest check. With `imagePullPolicy: Always` the kubelet queries the
/// registry even for an image that is present and reports a pull, although it fetches a manifest
/// and no layers. Such a short pull of an image that a worker has pulled counts as a check.
const MAX_MANIFEST_CHECK: Duration = Duration::from_secs(2);

/// Pull by a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerPull {
    /// End of the pull.
    pub at: Timestamp,
    /// Duration of the pull.
    pub pull_duration: Duration,
}

/// Result of a pod start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PodStart {
    /// Set if the image was present.
    pub warm: bool,
    /// Time from the worker's pull to the first container on the node that needed the image.
    pub lead: Option<Duration>,
    /// Pull time that the container did not have to wait.
    pub saved: Option<Duration>,
}

/// Classifies a start. `warmed`: a worker's pull of the image to the node, unless an earlier
/// container has used it.
#[must_use]
pub fn classify(pulled: &ImageEvent, warmed: Option<WorkerPull>) -> PodStart {
    let warm = match pulled.pull_duration {
        None => true,
        Some(took) => warmed.is_some() && took <= MAX_MANIFEST_CHECK,
    };
    let used = warmed.filter(|_| warm);
    let lead = used.and_then(|used| Duration::try_from(pulled.at.duration_since(used.at)).ok());
    PodStart {
        warm,
        lead,
        saved: used.map(|used| {
            used.pull_duration.saturating_sub(pulled.pull_duration.unwrap_or_default())
        }),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn pulled(took: Option<u64>) -> ImageEvent {
        ImageEvent {
            namespace: "shop".into(),
            node: "node-1".into(),
            image: "a:1".into(),
            by_worker: false,
            pull_duration: took.map(Duration::from_millis),
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(100),
        }
    }

    #[test]
    fn classifies_starts() {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(40);
        let ours = Some(WorkerPull { at, pull_duration: Duration::from_secs(12) });
        let seconds = Duration::from_secs;
        assert_eq!(
            classify(&pulled(None), ours),
            PodStart { warm: true, lead: Some(seconds(60)), saved: Some(seconds(12)) }
        );
        assert_eq!(classify(&pulled(None), None), PodStart { warm: true, lead: None, saved: None });
        assert_eq!(
            classify(&pulled(Some(9000)), None),
            PodStart { warm: false, lead: None, saved: None }
        );
        assert_eq!(
            classify(&pulled(Some(9000)), ours),
            PodStart { warm: false, lead: None, saved: None },
            "garbage collection deleted the image"
        );
        assert!(!classify(&pulled(Some(500)), None).warm);
        let question = classify(&pulled(Some(500)), ours);
        assert_eq!((question.warm, question.saved), (true, Some(Duration::from_millis(11_500))));
        let later = Some(WorkerPull {
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(101),
            pull_duration: seconds(1),
        });
        assert_eq!(classify(&pulled(None), later).lead, None, "clocks differ");
    }
}
