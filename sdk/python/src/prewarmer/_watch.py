"""A watch over its connections: shared by both clients."""

from __future__ import annotations

from typing import Callable

import httpx

from ._answers import parse, refusal
from ._calls import Call
from ._retry import Attempts
from ._sse import EventReader
from .errors import InvalidAnswer, PrewarmError, TransportError
from .models import TaskView

# A healthy server sends a sign of life every 15 seconds.
SILENCE = 60.0


class Watch:
    """What is known of a watched task, and when to connect again."""

    def __init__(self, call: Call[TaskView], attempts: Callable[[], Attempts]) -> None:
        self.ended = False
        self._call = call
        self._new_attempts = attempts
        self._attempts = attempts()
        self._last_id = ""
        self._reader = EventReader()

    def call(self) -> Call[TaskView]:
        """The next connection, which goes on after the last event that was seen."""
        self._reader = EventReader()
        headers = {**self._call.headers, **({"Last-Event-ID": self._last_id} if self._last_id else {})}
        return Call(self._call.method, self._call.path, TaskView, self._call.query, headers)

    def is_stream(self, response: httpx.Response) -> bool:
        """Whether events follow. Whatever else is answered has no body that goes on for ever."""
        kind = response.headers.get("content-type", "")
        return response.status_code == 200 and kind.startswith("text/event-stream")

    def other(self, response: httpx.Response) -> None:
        """Takes an answer that is no stream: the end, or an error."""
        if response.status_code == 204:
            self.ended = True
            return
        if response.status_code >= 300:
            raise refusal(self._call.method, response)
        url = str(response.request.url)
        raise InvalidAnswer(f"{url} answered with no events: is a proxy in between?", status_code=200, url=url)

    def feed(self, chunk: bytes, response: httpx.Response) -> list[TaskView]:
        """The states of the task that came with these bytes."""
        # Whoever is connected is well, even while nothing happens to the task.
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
        """Seconds until the next connection; raises what ended the last where there is none."""
        error = error or TransportError(f"the watch of {self._call.path} broke off again and again")
        seconds = self._attempts.pause(True, error)
        if seconds is None:
            raise error
        return seconds
