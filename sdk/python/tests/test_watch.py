from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from prewarmer import InvalidAnswer, NotFound, TransportError, Unauthorized, Unavailable
from prewarmer._sse import EventReader

from .harness import Handle, Stream, always, in_turn, refused, task

KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


def event(number: int, state: dict[str, Any]) -> bytes:
    return f"id: {number}\ndata: {json.dumps(state)}\n\n".encode()


def stream(*chunks: bytes, broken: bool = False) -> httpx.Response:
    headers = {"Content-Type": "text/event-stream"}
    return httpx.Response(200, headers=headers, stream=Stream(*chunks, broken=broken))


def parsed(raw: bytes, size: int) -> list[tuple[str, str]]:
    reader = EventReader()
    found = [one for start in range(0, len(raw), size) for one in reader.feed(raw[start : start + size])]
    return [(one.id, one.data) for one in found]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_in_pieces(end: str, size: int) -> None:
    lines = [
        ": life",
        "",
        "id: 1",
        "data: a",
        "data:b",
        "",
        "event: other",
        "data: x",
        "",
        "retry: 5",
        "data",
        "",
        "id:2",
    ]
    lines += ["data: \u2028\x85\N{SNOWMAN} ", "", "data: unfinished", "data: ."]
    raw = end.join(lines).encode()
    assert parsed(raw, size) == [("1", "a\nb"), ("2", "\u2028\x85\N{SNOWMAN} ")]


@KINDS
def test_a_watch_ends_with_the_task(kind: str) -> None:
    states = event(1, task()) + b": life\n\n" + event(2, task("completed", 4)) + event(3, task())
    handle = Handle(kind, in_turn(stream(states[:50], states[50:])))
    assert [one.status for one in handle.call("watch_task", "task-1")] == ["running", "completed"]
    assert handle.requests[0].headers["Accept"] == "text/event-stream"
    assert "Last-Event-ID" not in handle.requests[0].headers


@KINDS
@pytest.mark.parametrize("broken", [True, False])
def test_watch_reconnects(kind: str, broken: bool) -> None:
    first = stream(event(1, task()), event(7, task(completed=2)), broken=broken)
    second = stream(event(9, task("failed")))
    handle = Handle(kind, in_turn(first, httpx.ConnectError("refused"), refused(503), second))
    seen = handle.call("watch_task", "task-1", namespace="shop")
    assert [one.status for one in seen] == ["running", "running", "failed"]
    assert [request.headers.get("Last-Event-ID") for request in handle.requests] == [None, "7", "7", "7"]
    assert {request.url.params["namespace"] for request in handle.requests} == {"shop"}
    assert handle.clock.slept == [0.5, 1, 2]


@KINDS
def test_incomplete_event_is_discarded_on_reconnect(kind: str) -> None:
    first = stream(event(1, task()), event(2, task("completed"))[:-40], broken=True)
    handle = Handle(kind, in_turn(first, stream(event(2, task("completed")))))
    assert len(handle.call("watch_task", "task-1")) == 2


@KINDS
def test_watch_ends_with_no_content(kind: str) -> None:
    handle = Handle(kind, in_turn(stream(event(1, task())), httpx.Response(204)))
    assert len(handle.call("watch_task", "task-1")) == 1


@KINDS
def test_failed_connections_are_counted(kind: str) -> None:
    handle = Handle(kind, always(503, {"error": "no"}), retries=2)
    with pytest.raises(Unavailable):
        handle.call("watch_task", "task-1")
    assert len(handle.requests) == 3


@KINDS
def test_streams_without_a_byte_are_counted(kind: str) -> None:
    handle = Handle(kind, lambda request: stream(), retries=2)
    with pytest.raises(TransportError, match="interrupted repeatedly"):
        handle.call("watch_task", "task-1")
    assert len(handle.requests) == 3


@KINDS
def test_keep_alives_reset_the_failure_count(kind: str) -> None:
    cut = [stream(b": life\n\n", broken=True) for _ in range(5)]
    handle = Handle(kind, in_turn(*cut, stream(event(1, task("completed")))), retries=1)
    assert len(handle.call("watch_task", "task-1")) == 1


@KINDS
@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
def test_a_refusal_ends_a_watch(kind: str, status: int, error: type[Exception]) -> None:
    handle = Handle(kind, in_turn(stream(event(1, task())), refused(status)))
    with pytest.raises(error):
        handle.call("watch_task", "task-1")


@KINDS
@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), stream(b"id: 1\ndata: <html>\n\n"), stream(b"data: {}\n\n")]
)
def test_responses_without_events(kind: str, answer: httpx.Response) -> None:
    handle = Handle(kind, in_turn(answer))
    with pytest.raises(InvalidAnswer):
        handle.call("watch_task", "task-1")
