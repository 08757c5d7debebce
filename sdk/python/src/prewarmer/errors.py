"""Exceptions. All derive from `PrewarmError`; none contains the token."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from .models import Detail, FailedNodeDetail, TaskView

# Maximum number of nodes of each reason in a message. The attributes contain all.
_NODES_NAMED = 5


class PrewarmError(Exception):
    """Base class of all exceptions of this package."""


class TransportError(PrewarmError):
    """No response: connection error, timeout, or untrusted certificate.

    `sent`: the server may have processed the call. `transient`: a retry may succeed.
    """

    def __init__(self, message: str, *, sent: bool = True, transient: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.transient = transient


class InvalidAnswer(PrewarmError):
    """Response that does not come from Prewarmer's API, such as a page of a proxy or a redirect."""

    def __init__(self, message: str, *, status_code: int = 0, url: str = "") -> None:
        super().__init__(message)
        self.status_code = status_code
        self.url = url


class ApiError(PrewarmError):
    """Error response of the server.

    `message`: error message. `details`: all invalid fields. `status` and `task_id`: the object that conflicts with the
    request. `retry_after`: delay before a retry, in seconds. `request_id`: ID of the request in the server's log.
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
        """Returns the server's message, all invalid fields, and the request."""
        fields = "; ".join(f"{one.field}: {one.message}" if one.field else one.message for one in self.details)
        words = f"{self.message}: {fields}" if fields else self.message
        call = " ".join(part for part in (self.method, self.url) if part)
        where = ", ".join(part for part in (call, f"request {self.request_id}" if self.request_id else "") if part)
        return f"{self.status_code} {_phrase(self.status_code)}: {words}" + (f" ({where})" if where else "")


class BadRequest(ApiError):
    """400 or 422: invalid fields, all listed in `details`, or the cluster rejects the object."""


class Unauthorized(ApiError):
    """401: the token is missing, unknown, expired or revoked."""


class Forbidden(ApiError):
    """403: the caller does not have the permission."""


class NotFound(ApiError):
    """404: the object does not exist in the namespaces that the caller may read."""


class Conflict(ApiError):
    """409: the request conflicts with the current state; `status` contains that state."""


class TooManyRequests(ApiError):
    """429: the rate limit is exceeded; `retry_after` contains the delay before a retry."""


class Unavailable(ApiError):
    """502, 503 or 504: the server or its cluster is unavailable."""


class WaitTimeout(PrewarmError, TimeoutError):
    """The task has not ended in time, and continues. `task`: its last known state, or None."""

    def __init__(self, task_id: str, timeout: float, task: TaskView | None) -> None:
        state = "its state is unknown"
        if task is not None:
            done = task.progress
            state = f"it is {task.status}, with {done.completed_nodes} of {done.total_nodes} nodes warm"
        super().__init__(f"{task_id} has not ended within {timeout:g} s: {state}")
        self.task_id = task_id
        self.timeout = timeout
        self.task = task

    def __reduce__(self) -> tuple[type[WaitTimeout], tuple[object, ...]]:
        """Supports pickling with the arguments of the constructor."""
        return type(self), (self.task_id, self.timeout, self.task)


class TaskFailed(PrewarmError):
    """The task failed or was cancelled. `task`: its final state. `failures`: its failures by reason."""

    def __init__(self, task: TaskView) -> None:
        self.task = task
        self.failures: dict[str, list[FailedNodeDetail]] = {}
        for one in task.failed_node_details:
            self.failures.setdefault(one.reason, []).append(one)
        lines = [f"{task.task_id} {task.status}: {task.message}"]
        lines += [_summary(reason, found) for reason, found in self.failures.items()]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[TaskView]]:
        """Supports pickling with the arguments of the constructor."""
        return type(self), (self.task,)


def _summary(reason: str, failures: Sequence[FailedNodeDetail]) -> str:
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
