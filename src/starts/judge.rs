//! What the start of a container comes to. *Pure.*

use std::time::Duration;

use jiff::Timestamp;

use super::event::Pulled;

/// With `imagePullPolicy: Always` the kubelet asks the registry even for what it has, and says that it has pulled: an answer,
/// a manifest, no layers. Of an image that we have brought, so quick a pull was such a question.
const QUESTION: Duration = Duration::from_secs(2);

/// A pull of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Warmed {
    pub(super) at: Timestamp,
    pub(super) took: Duration,
}

/// What a container found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Start {
    /// Whether the image was there.
    pub(super) warm: bool,
    /// How long it had been there, by our doing, before the first container on the node that needed it.
    pub(super) lead: Option<Duration>,
    /// How long the container would have waited.
    pub(super) saved: Option<Duration>,
}

/// Judges a start. `warmed`: our pull of the image to the node, if no container has profited from it yet.
pub(super) fn judge(pulled: &Pulled, warmed: Option<Warmed>) -> Start {
    let warm = match pulled.took {
        None => true,
        Some(took) => warmed.is_some() && took <= QUESTION,
    };
    let used = warmed.filter(|_| warm);
    let lead = used.and_then(|used| Duration::try_from(pulled.at.duration_since(used.at)).ok());
    Start { warm, lead, saved: used.map(|used| used.took.saturating_sub(pulled.took.unwrap_or_default())) }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn pulled(took: Option<u64>) -> Pulled {
        Pulled {
            namespace: "shop".into(),
            node: "node-1".into(),
            image: "a:1".into(),
            worker: false,
            took: took.map(Duration::from_millis),
            at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(100),
        }
    }

    #[test]
    fn what_starts_come_to() {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(40);
        let ours = Some(Warmed { at, took: Duration::from_secs(12) });
        let seconds = Duration::from_secs;
        assert_eq!(judge(&pulled(None), ours), Start { warm: true, lead: Some(seconds(60)), saved: Some(seconds(12)) });
        assert_eq!(judge(&pulled(None), None), Start { warm: true, lead: None, saved: None });
        assert_eq!(judge(&pulled(Some(9000)), None), Start { warm: false, lead: None, saved: None });
        assert_eq!(
            judge(&pulled(Some(9000)), ours),
            Start { warm: false, lead: None, saved: None },
            "it was collected"
        );
        assert!(!judge(&pulled(Some(500)), None).warm);
        let question = judge(&pulled(Some(500)), ours);
        assert_eq!((question.warm, question.saved), (true, Some(Duration::from_millis(11_500))));
        let later = Some(Warmed { at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(101), took: seconds(1) });
        assert_eq!(judge(&pulled(None), later).lead, None, "clocks differ");
    }
}
