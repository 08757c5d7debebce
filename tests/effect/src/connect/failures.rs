//! Counts of failures, of which each concerns one object.

/// Failures that are printed; further ones are only counted, so that a cluster that rejects every
/// request does not fill the log.
const MAX_PRINTED: u64 = 20;
/// Characters of a message that are kept. Messages of an API server may contain a whole object.
const MAX_MESSAGE_CHARS: usize = 300;

/// Failures of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    count: u64,
    last: Option<String>,
}

impl Failures {
    /// Counts a failure and prints it to standard error. The message names the object and the cause.
    pub fn add(&mut self, message: &str) {
        let message = shorten(message);
        self.count = self.count.saturating_add(1);
        if self.count <= MAX_PRINTED {
            eprintln!("{message}");
        }
        if self.count == MAX_PRINTED {
            eprintln!("further failures of this kind are only counted");
        }
        self.last = Some(message);
    }

    /// Returns the number of failures.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the message of the last failure.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

/// Returns a message with at most [`MAX_MESSAGE_CHARS`] characters, on one line.
#[must_use]
pub fn shorten(message: &str) -> String {
    let line = message.chars().map(|char| if char.is_control() { ' ' } else { char });
    line.take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_the_last_is_kept() {
        let mut failures = Failures::default();
        assert_eq!((failures.count(), failures.last()), (0, None));
        for index in 0..MAX_PRINTED + 5 {
            failures.add(&format!("pod {index}: rejected"));
        }
        assert_eq!(failures.count(), MAX_PRINTED + 5);
        assert_eq!(failures.last(), Some("pod 24: rejected"));
    }

    #[test]
    fn a_long_message_of_several_lines_is_shortened() {
        let text = shorten(&"é\n".repeat(1_000));
        assert_eq!(text.chars().count(), MAX_MESSAGE_CHARS);
        assert!(!text.contains('\n'));
    }
}
