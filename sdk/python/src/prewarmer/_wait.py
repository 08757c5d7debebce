"""State of a wait for the end of a task, for both clients."""

from __future__ import annotations

from typing import Callable

from ._progress import Report
from .errors import TaskFailed, WaitTimeout
from .models import TaskView


class Wait:
    """Last state of a task, and the time left to wait."""

    def __init__(
        self, task_id: str, timeout: float | None, interval: float, report: Report, clock: Callable[[], float]
    ) -> None:
        if interval <= 0:
            raise ValueError(f"poll_interval must be more than 0 seconds, got {interval}")
        self._task_id = task_id
        self._timeout = timeout
        self._interval = interval
        self._report = report
        self._clock = clock
        self._until = None if timeout is None else clock() + timeout
        self._last: TaskView | None = None

    def limit(self) -> float | None:
        """Returns the timeout of the next request in seconds, at least 1, or None for no limit."""
        left = self._left()
        return None if left is None else max(left, 1.0)

    def saw(self, task: TaskView) -> bool:
        """Records a state, and returns whether it differs from the last."""
        changed = task != self._last
        self._last = task
        self._report.show(task)
        return changed

    def pause(self) -> float:
        """Returns the seconds until the next request. Raises WaitTimeout if the time is over."""
        late = self.late()
        if late is not None:
            raise late
        left = self._left()
        return self._interval if left is None else min(self._interval, left)

    def late(self) -> WaitTimeout | None:
        """Returns WaitTimeout if the time is over, otherwise None."""
        left = self._left()
        if left is None or left > 0:
            return None
        return WaitTimeout(self._task_id, self._timeout or 0.0, self._last)

    def _left(self) -> float | None:
        return None if self._until is None else self._until - self._clock()


def ended(task: TaskView, raise_on_failure: bool) -> TaskView:
    """Returns the task, or raises TaskFailed if requested."""
    if raise_on_failure and task.status != "completed":
        raise TaskFailed(task)
    return task
