//! State of a delivery: when the next attempt is due, and when a delivery is abandoned. Pure: no
//! client, no clock, no I/O.

use jiff::{SignedDuration, Timestamp};
use prewarmer_core::{
    task::{Delivery, PrewarmTask},
    timestamp,
};

use super::webhook_client::DeliveryError;

/// Initial backoff between attempts; it doubles up to one hour.
const INITIAL_BACKOFF: SignedDuration = SignedDuration::from_secs(5);
const MAX_BACKOFF: SignedDuration = SignedDuration::from_hours(1);
/// Maximum time since the end of a task for a further attempt. After it the message has no value.
const DELIVERY_DEADLINE: SignedDuration = SignedDuration::from_hours(24);
/// Backoff while no attempt was ever answered: 5 attempts within 71 minutes instead of 33 within a
/// day. A receiver that restarts still gets the message, and an address without a listener is
/// abandoned early.
const UNANSWERED_BACKOFF: [SignedDuration; 4] = [
    SignedDuration::from_secs(10),
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_hours(1),
];

/// Returns the state of the delivery of an entry of `spec.notify`.
pub(super) fn delivery_status(task: &PrewarmTask, index: usize) -> Delivery {
    task.status
        .as_ref()
        .and_then(|status| status.notifications.get(index))
        .cloned()
        .unwrap_or_default()
}

/// Reports whether the next attempt of a delivery is due.
pub(super) fn is_due(delivery: &Delivery, now: Timestamp) -> bool {
    let next = delivery.next_attempt.as_deref().and_then(timestamp::parse);
    !delivery.done && next.is_none_or(|next| next <= now)
}

fn due_deliveries(task: &PrewarmTask, now: Timestamp) -> impl Iterator<Item = Delivery> + '_ {
    let all = 0..task.spec.notify.iter().flatten().count();
    all.map(|index| delivery_status(task, index)).filter(move |delivery| is_due(delivery, now))
}

/// Reports whether an attempt of any delivery of the task is due.
pub(super) fn has_due_delivery(task: &PrewarmTask, now: Timestamp) -> bool {
    due_deliveries(task, now).next().is_some()
}

/// Returns the smallest number of attempts among the due deliveries of the task.
pub(super) fn fewest_attempts(task: &PrewarmTask, now: Timestamp) -> u32 {
    due_deliveries(task, now).map(|delivery| delivery.attempts).min().unwrap_or(u32::MAX)
}

/// Returns the state of a delivery after an attempt. `answers` states whether the receiver has
/// responded to any message. Performs no I/O.
pub(super) fn next_delivery_state(
    before: &Delivery,
    result: Result<(), &DeliveryError>,
    answers: bool,
    ended: Timestamp,
    now: Timestamp,
) -> Delivery {
    let attempts = before.attempts.saturating_add(1);
    let failure = match result {
        Ok(()) => {
            return Delivery {
                done: true,
                attempts,
                answered: true,
                delivered: Some(timestamp::format(now)),
                ..Delivery::default()
            };
        }
        Err(failure) => failure,
    };
    let answered = before.answered || failure.is_response();
    let tries = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let pause = if failure.is_unanswered() && !answered && !answers {
        UNANSWERED_BACKOFF.get(tries).copied()
    } else {
        let doubled = INITIAL_BACKOFF.saturating_mul(1 << tries.min(20));
        Some(doubled.min(MAX_BACKOFF))
    };
    let next = pause.and_then(|pause| now.checked_add(pause).ok());
    let next = next
        .filter(|next| !failure.is_permanent() && next.duration_since(ended) <= DELIVERY_DEADLINE);
    Delivery {
        done: next.is_none(),
        attempts,
        answered,
        next_attempt: next.map(timestamp::format),
        delivered: None,
        message: Some(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::RequestFailure;

    fn attempt_until_done(failure: &DeliveryError, answers: bool) -> (Delivery, SignedDuration) {
        let ended: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let (mut delivery, mut now) = (Delivery::default(), ended);
        while !delivery.done {
            assert!(is_due(&delivery, now));
            delivery = next_delivery_state(&delivery, Err(failure), answers, ended, now);
            if let Some(next) = &delivery.next_attempt {
                let next: Timestamp = next.parse().unwrap();
                assert!(!is_due(&delivery, now) && next > now);
                now = next;
            }
        }
        (delivery, now.duration_since(ended))
    }

    #[test]
    fn responsive_receiver_is_retried_for_a_day() {
        let (delivery, last) = attempt_until_done(&DeliveryError::Status(503), false);
        assert!(last <= DELIVERY_DEADLINE && last > DELIVERY_DEADLINE - MAX_BACKOFF);
        // 5 s doubled ten times is more than an hour. After these 85 minutes there is one attempt
        // per hour.
        assert_eq!((delivery.attempts, delivery.answered), (33, true));
        assert_eq!(delivery.message.as_deref(), Some("the receiver returned HTTP 503"));
        assert_eq!(
            attempt_until_done(&DeliveryError::SecretNotFound("hook".into()), false).0.attempts,
            33,
            "no request is sent without the Secret"
        );
    }

    #[test]
    fn unresponsive_receiver_is_abandoned_early() {
        let silence = DeliveryError::Request(RequestFailure::TimedOut);
        let (delivery, last) = attempt_until_done(&silence, false);
        assert_eq!((delivery.attempts, delivery.answered), (5, false));
        assert!(
            last > SignedDuration::from_hours(1) && last < SignedDuration::from_hours(2),
            "{last:#}"
        );
        assert_eq!(
            attempt_until_done(&silence, true).0.attempts,
            33,
            "the receiver has responded to a message of another task"
        );
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let before = Delivery { attempts: 10, answered: true, ..Delivery::default() };
        assert!(!next_delivery_state(&before, Err(&silence), false, now, now).done);
    }

    #[test]
    fn delivery_ends_on_success_or_permanent_failure() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let delivered = next_delivery_state(&Delivery::default(), Ok(()), false, now, now);
        assert!(delivered.done && delivered.delivered.is_some() && delivered.message.is_none());
        let never = next_delivery_state(
            &Delivery::default(),
            Err(&DeliveryError::Status(410)),
            false,
            now,
            now,
        );
        assert!(never.done && never.delivered.is_none() && never.next_attempt.is_none());
    }
}
