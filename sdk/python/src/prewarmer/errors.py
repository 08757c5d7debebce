"""What can go wrong. Everything is a `PrewarmError`; the token is in none of them."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from .models import Detail, FailedNodeDetail, TaskView

# A message names no more nodes than this of a reason: the rest are in the attributes.
_NODES_NAMED = 5


class PrewarmError(Exception):
    """Anything that this package raises by itself."""


class TransportError(PrewarmError):
    """There was no answer: no connection, a broken one, a time-out, or a certificate that is not trusted.

    `sent` is whether the server may have carried the call out; `transient` whether another try may succeed.
    """

    def __init__(self, message: str, *, sent: bool = True, transient: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.transient = transient


class InvalidAnswer(PrewarmError):
    """What answered does not speak the API of Prewarmer, such as the page of a proxy, or a redirect."""

    def __init__(self, message: str, *, status_code: int = 0, url: str = "") -> None:
        super().__init__(message)
        self.status_code = status_code
        self.url = url


class ApiError(PrewarmError):
    """The server refused, and says why.

    `message` are its words, `details` every bad field, `status` and `task_id` what was in the way, `retry_after` the
    seconds after which it may be asked again, and `request_id` what to look for in its log.
    """

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        details: Sequence[Detail] = (),
        request_id: str | None = None,
        task_id: str | None = None,
        status: str | None = None,
        retry_after: float | None = None,
        method: str = "",
        url: str = "",
    ) -> None:
        super().__init__(status_code, message)
        self.status_code = status_code
        self.message = message
        self.details = list(details)
        self.request_id = request_id
        self.task_id = task_id
        self.status = status
        self.retry_after = retry_after
        self.method = method
        self.url = url

    def __str__(self) -> str:
        """The server's words, every bad field, and which call it was."""
        fields = "; ".join(f"{one.field}: {one.message}" if one.field else one.message for one in self.details)
        words = f"{self.message}: {fields}" if fields else self.message
        call = " ".join(part for part in (self.method, self.url) if part)
        where = ", ".join(part for part in (call, f"request {self.request_id}" if self.request_id else "") if part)
        return f"{self.status_code} {_phrase(self.status_code)}: {words}" + (f" ({where})" if where else "")


class BadRequest(ApiError):
    """400 or 422: fields are wrong, each of which is in `details`, or the cluster does not take it."""


class Unauthorized(ApiError):
    """401: there is no token, or one that the server does not know or no longer takes."""


class Forbidden(ApiError):
    """403: whose token it is may not do that."""


class NotFound(ApiError):
    """404: there is no such thing in the namespaces that the caller may read."""


class Conflict(ApiError):
    """409: what is asked for is in the way of what is; `status` says what that is."""


class TooManyRequests(ApiError):
    """429: too many calls; `retry_after` says when the next is taken."""


class Unavailable(ApiError):
    """502, 503 or 504: the server or the cluster behind it does not answer now."""


class WaitTimeout(PrewarmError, TimeoutError):
    """A task had not ended in time. It goes on; `task` is its last state, None where none was seen."""

    def __init__(self, task_id: str, timeout: float, task: TaskView | None) -> None:
        state = "its state is not known"
        if task is not None:
            done = task.progress
            state = f"it is {task.status}, with {done.completed_nodes} of {done.total_nodes} nodes warm"
        super().__init__(f"{task_id} has not ended within {timeout:g} s: {state}")
        self.task_id = task_id
        self.timeout = timeout
        self.task = task

    def __reduce__(self) -> tuple[type[WaitTimeout], tuple[object, ...]]:
        """For other processes: made again from what it was made of."""
        return type(self), (self.task_id, self.timeout, self.task)


class TaskFailed(PrewarmError):
    """A task ended as failed or cancelled. `task` is its end, and `failures` the failures by their reason."""

    def __init__(self, task: TaskView) -> None:
        self.task = task
        self.failures: dict[str, list[FailedNodeDetail]] = {}
        for one in task.failed_node_details:
            self.failures.setdefault(one.reason, []).append(one)
        lines = [f"{task.task_id} {task.status}: {task.message}"]
        lines += [_told(reason, found) for reason, found in self.failures.items()]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[TaskView]]:
        """For other processes: made again from what it was made of."""
        return type(self), (self.task,)


def _told(reason: str, failures: Sequence[FailedNodeDetail]) -> str:
    nodes = list(dict.fromkeys(one.node_name for one in failures))
    more = f" and {len(nodes) - _NODES_NAMED} more" if len(nodes) > _NODES_NAMED else ""
    images = ", ".join(dict.fromkeys(one.image for one in failures if one.image))
    about = f" ({images})" if images else ""
    return f"  {reason}{about} on {', '.join(nodes[:_NODES_NAMED])}{more}: {failures[0].message}"


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return "Error"
