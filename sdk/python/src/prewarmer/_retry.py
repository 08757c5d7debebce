"""Retry policy, for both clients."""

from __future__ import annotations

from typing import Callable

from ._calls import Call, T
from .errors import ApiError, PrewarmError, TransportError

# Delay before the first retry in seconds. It doubles with each retry, up to _LONGEST.
_FIRST = 0.5
_LONGEST = 8.0
# Status codes after which it is unknown whether the call was processed.
_UNCERTAIN = {502, 504}


class Attempts:
    """Attempts of a call: at most `retries` retries, the last of which starts within `budget` seconds."""

    def __init__(self, retries: int, budget: float, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._left = retries
        self._clock = clock
        self._random = random
        self._until = clock() + budget
        self._delay = _FIRST
        self._uncertain = False

    def done_before(self, call: Call[T], error: PrewarmError) -> T | None:
        """Returns the result if an earlier attempt without a response was processed, which causes this error."""
        if self._uncertain and call.done_before and isinstance(error, ApiError):
            return call.done_before(error)
        return None

    def pause(self, safe: bool, error: PrewarmError) -> float | None:
        """Returns the delay in seconds before the next attempt, or None if there is none."""
        if self._left <= 0 or not _repeatable(safe, error):
            return None
        requested = error.retry_after if isinstance(error, ApiError) else None
        # Half of the delay is random, so that clients do not retry at the same time.
        seconds = self._delay * (1 + self._random()) / 2
        if requested is not None:
            seconds = max(seconds, requested + self._random() * _FIRST)
        if self._clock() + seconds > self._until:
            return None
        self._left -= 1
        self._delay = min(self._delay * 2, _LONGEST)
        self._uncertain |= _uncertain(error)
        return seconds


def _repeatable(safe: bool, error: PrewarmError) -> bool:
    if isinstance(error, TransportError):
        return error.transient and (safe or not error.sent)
    if isinstance(error, ApiError):
        return error.status_code == 429 or (safe and error.status_code in {502, 503, 504})
    return False


def _uncertain(error: PrewarmError) -> bool:
    if isinstance(error, TransportError):
        return error.sent
    return isinstance(error, ApiError) and error.status_code in _UNCERTAIN
