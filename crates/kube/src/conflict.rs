//! Changes that other clients make to the same object at the same time.

use std::future::Future;

use super::api_error::ApiErrorKind;

/// Largest number of attempts of a change. More conflicts mean that another program writes the
/// object all the time.
pub const MAX_ATTEMPTS: u32 = 8;

/// Attempts a change until it does not conflict with another one, at most [`MAX_ATTEMPTS`] times.
/// `attempt` receives the number of its call, from 0, reads the object unless it knows it, and
/// returns `None` for a conflict (see [`unless_conflict`]). Returns `None` if every attempt
/// conflicted, and the first error.
pub async fn retry_on_conflict<T, E, F>(attempt: impl Fn(u32) -> F) -> Result<Option<T>, E>
where
    F: Future<Output = Result<Option<T>, E>>,
{
    for number in 0..MAX_ATTEMPTS {
        if let Some(result) = attempt(number).await? {
            return Ok(Some(result));
        }
    }
    Ok(None)
}

/// Converts an error with status 409 into `None`.
pub fn unless_conflict<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if ApiErrorKind::of(&error).is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::ready};

    use futures::executor::block_on;
    use kube::core::Status;
    use rstest::rstest;

    use super::*;

    /// Retries an attempt that succeeds in call `success`. Returns the result and the number of
    /// calls.
    fn retry(success: u32) -> (Option<u32>, u32) {
        let calls = Cell::new(0);
        let result = block_on(retry_on_conflict(|number| {
            calls.set(calls.get() + 1);
            ready(Ok::<_, ()>((number == success).then_some(number)))
        }));
        (result.unwrap(), calls.get())
    }

    #[rstest]
    #[case(0)]
    #[case(MAX_ATTEMPTS - 1)]
    fn first_success_is_returned(#[case] success: u32) {
        assert_eq!(retry(success), (Some(success), success + 1));
    }

    #[test]
    fn attempts_are_bounded() {
        assert_eq!(retry(MAX_ATTEMPTS), (None, MAX_ATTEMPTS));
    }

    #[test]
    fn error_ends_the_attempts() {
        let calls = Cell::new(0);
        let result = block_on(retry_on_conflict::<(), _, _>(|_| {
            calls.set(calls.get() + 1);
            ready(Err("refused"))
        }));
        assert_eq!((result, calls.get()), (Err("refused"), 1));
    }

    #[rstest]
    #[case("Conflict", 409, Some(true))]
    #[case("AlreadyExists", 409, Some(true))]
    #[case("NotFound", 404, None)]
    fn conflicts_are_distinguished_from_errors(
        #[case] reason: &str,
        #[case] code: u16,
        #[case] conflict: Option<bool>,
    ) {
        let status = Status::failure("message", reason).with_code(code);
        let result = unless_conflict::<()>(Err(kube::Error::Api(Box::new(status))));
        assert_eq!(result.ok().map(|value| value.is_none()), conflict);
    }

    #[test]
    fn value_is_no_conflict() {
        assert_eq!(unless_conflict(Ok(1)).ok(), Some(Some(1)));
    }
}
