"""State of a watch over several connections, for both clients."""

from __future__ import annotations

from typing import Callable

import httpx

from ._answers import parse, refusal
from ._calls import Call
from ._retry import Attempts
from ._sse import EventReader
from .errors import InvalidAnswer, PrewarmError, TransportError
from .models import TaskView

# Read timeout of a watch in seconds. A healthy server sends a keep-alive every 15 seconds.
SILENCE = 60.0


class Watch:
    """State of a watched task, and its retry policy."""

    def __init__(self, call: Call[TaskView], attempts: Callable[[], Attempts]) -> None:
        self.ended = False
        self._call = call
        self._new_attempts = attempts
        self._attempts = attempts()
        self._last_id = ""
        self._reader = EventReader()

    def call(self) -> Call[TaskView]:
        """Returns the call of the next connection, which resumes after the last event."""
        self._reader = EventReader()
        headers = {**self._call.headers, **({"Last-Event-ID": self._last_id} if self._last_id else {})}
        return Call(self._call.method, self._call.path, TaskView, self._call.query, headers)

    def is_stream(self, response: httpx.Response) -> bool:
        """Reports whether the response is a stream of events. Other responses have a finite body."""
        kind = response.headers.get("content-type", "")
        return response.status_code == 200 and kind.startswith("text/event-stream")

    def other(self, response: httpx.Response) -> None:
        """Handles a response that is not a stream: the end of the watch, or an error."""
        if response.status_code == 204:
            self.ended = True
            return
        if response.status_code >= 300:
            raise refusal(self._call.method, response)
        url = str(response.request.url)
        raise InvalidAnswer(f"{url} did not answer with events; check for a proxy", status_code=200, url=url)

    def feed(self, chunk: bytes, response: httpx.Response) -> list[TaskView]:
        """Returns the states of the task that these bytes complete."""
        # Any data proves a working connection, even if the task does not change.
        self._attempts = self._new_attempts()
        states = []
        for event in self._reader.feed(chunk):
            states.append(parse(TaskView, event.data, response))
            self._last_id = event.id
            if states[-1].status.ended:
                self.ended = True
                break
        return states

    def pause(self, error: PrewarmError | None) -> float:
        """Returns the delay before the next connection in seconds. Raises the last error if there is none."""
        error = error or TransportError(f"the watch of {self._call.path} was interrupted repeatedly")
        seconds = self._attempts.pause(True, error)
        if seconds is None:
            raise error
        return seconds
