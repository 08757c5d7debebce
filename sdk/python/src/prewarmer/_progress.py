"""Display of the progress of a task."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO, Union

from .models import TaskView

Progress = Union[bool, TextIO]

_WIDTH = 24


class Report:
    """Writes the progress of a task to a stream: one updated line on a terminal, otherwise a line per change."""

    def __init__(self, progress: Progress) -> None:
        self._stream = sys.stderr if progress is True else progress or None
        self._terminal = self._stream is not None and self._stream.isatty()
        self._shown = ""

    def show(self, task: TaskView) -> None:
        """Writes the progress, if its text has changed."""
        line = _line(task)
        if self._stream is None or line == self._shown:
            return
        self._shown = line
        if self._terminal:
            # A wrapped line could not be overwritten.
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r{line[: columns - 1]}\x1b[K")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._stream is not None and self._terminal and self._shown:
            self._stream.write("\n")
            self._stream.flush()


def _line(task: TaskView) -> str:
    done = task.progress
    filled = int(_WIDTH * min(max(done.percentage, 0), 100) / 100)
    parts = [f"{done.completed_nodes}/{done.total_nodes} nodes"]
    if done.failed_nodes:
        parts.append(f"{done.failed_nodes} failed")
    if done.total_batches:
        parts.append(f"batch {done.current_batch}/{done.total_batches}")
    bar = "#" * filled + "-" * (_WIDTH - filled)
    return f"{task.task_id} [{bar}] {done.percentage:5.1f}% {task.status}, {', '.join(parts)}"
