"""Parser of server-sent events."""

from __future__ import annotations

import re

from .models import TaskEvent

# str.splitlines would also split at other characters, which the JSON of an event may contain.
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Incremental parser: takes chunks of bytes, and returns complete events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._id = ""
        self._kind = ""

    def feed(self, chunk: bytes) -> list[TaskEvent]:
        """Returns the events that these bytes complete."""
        held = self._rest + chunk
        # A CR at the end may be the first half of CRLF.
        until = len(held) - 1 if held.endswith(b"\r") else len(held)
        *lines, rest = _LINE_END.split(held[:until])
        self._rest = rest + held[until:]
        found = (self._line(line.decode("utf-8", "replace")) for line in lines)
        return [event for event in found if event is not None]

    def _line(self, line: str) -> TaskEvent | None:
        if not line:
            return self._whole()
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        elif name == "event":
            self._kind = value
        return None

    def _whole(self) -> TaskEvent | None:
        data, kind = "\n".join(self._data), self._kind
        self._data, self._kind = [], ""
        # Events of other types, which a newer server may send, are ignored.
        return TaskEvent(id=self._id, data=data) if data and kind in ("", "message") else None
