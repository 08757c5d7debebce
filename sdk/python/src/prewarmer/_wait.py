"""Waiting for a task's end: shared by both clients."""

from __future__ import annotations

from typing import Callable

from ._progress import Report
from .errors import TaskFailed, WaitTimeout
from .models import TaskView


class Wait:
    """What was seen of a task, and how long to wait for more."""

    def __init__(
        self, task_id: str, timeout: float | None, interval: float, report: Report, clock: Callable[[], float]
    ) -> None:
        if interval <= 0:
            raise ValueError(f"poll_interval must be more than 0 seconds: {interval}")
        self._task_id = task_id
        self._timeout = timeout
        self._interval = interval
        self._report = report
        self._clock = clock
        self._until = None if timeout is None else clock() + timeout
        self._last: TaskView | None = None

    def limit(self) -> float | None:
        """Seconds that the next look may take; None for no bound. Even one that comes late has a second."""
        left = self._left()
        return None if left is None else max(left, 1.0)

    def saw(self, task: TaskView) -> bool:
        """Takes a state, and says whether it is another than the last."""
        changed = task != self._last
        self._last = task
        self._report.show(task)
        return changed

    def pause(self) -> float:
        """Seconds until the next look; WaitTimeout where there is none."""
        late = self.late()
        if late is not None:
            raise late
        left = self._left()
        return self._interval if left is None else min(self._interval, left)

    def late(self) -> WaitTimeout | None:
        """That the time is over, where it is."""
        left = self._left()
        if left is None or left > 0:
            return None
        return WaitTimeout(self._task_id, self._timeout or 0.0, self._last)

    def _left(self) -> float | None:
        return None if self._until is None else self._until - self._clock()


def ended(task: TaskView, raise_on_failure: bool) -> TaskView:
    """The end of a wait."""
    if raise_on_failure and task.status != "completed":
        raise TaskFailed(task)
    return task
