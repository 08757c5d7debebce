from __future__ import annotations

import io
from typing import Any

import httpx
import pytest

from prewarmer import NotFound, TaskFailed, TaskView, WaitTimeout

from .harness import Handle, always, failure, in_turn, refused, task

pytestmark = pytest.mark.parametrize("kind", ["sync", "async"])


def states(*bodies: dict[str, Any]) -> Any:
    return in_turn(*(httpx.Response(200, json=body) for body in bodies))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_callback_sees_each_change(kind: str) -> None:
    seen: list[float] = []
    handle = Handle(kind, states(task(), task(), task(completed=2), task("completed", 4)))
    done = handle.call("wait_for_completion", "task-1", callback=lambda one: seen.append(one["progress"]["percentage"]))
    assert (done.status, seen) == ("completed", [25.0, 50.0, 100.0])
    assert handle.clock.slept == [5.0, 5.0, 5.0]


@pytest.mark.parametrize("name", ["poll_interval", "interval"])
def test_the_interval(kind: str, name: str) -> None:
    handle = Handle(kind, states(task(), task("completed")))
    handle.call("wait_for_completion", "task-1", **{name: 2})
    assert handle.clock.slept == [2]


def test_positional_timeout_and_interval(kind: str) -> None:
    handle = Handle(kind, states(task(), task("completed")))
    handle.call("wait_for_completion", "task-1", 60, 7)
    assert handle.clock.slept == [7]


def test_default_timeout(kind: str) -> None:
    handle = Handle(kind, always(200, task()))
    with pytest.raises(TimeoutError, match="within 600 s"):
        handle.call("wait_for_completion", "task-1")
    assert sum(handle.clock.slept) == 600


@pytest.mark.parametrize("interval", [0, -1])
def test_no_interval(kind: str, interval: int) -> None:
    handle = Handle(kind, always(200, task()))
    with pytest.raises(ValueError, match="more than 0"):
        handle.call("wait_for_completion", "task-1", poll_interval=interval)


def test_wait_timeout(kind: str) -> None:
    handle = Handle(kind, always(200, task()))
    with pytest.raises(
        TimeoutError, match="task-1 has not ended within 5 s: it is running, with 1 of 4 nodes"
    ) as raised:
        handle.call("wait_for_completion", "task-1", timeout=5, poll_interval=2)
    assert isinstance(raised.value, WaitTimeout)
    assert raised.value.task == TaskView.model_validate(task())
    assert handle.clock.slept == [2.0, 2.0, 1.0]
    assert len(handle.requests) == 4


def test_zero_timeout_makes_one_request(kind: str) -> None:
    handle = Handle(kind, states(task("completed")))
    assert handle.call("wait_for_completion", "task-1", timeout=0).status == "completed"


def test_wait_survives_an_unavailable_server(kind: str) -> None:
    handle = Handle(kind, in_turn(httpx.ConnectError("x"), refused(503), httpx.Response(200, json=task("completed"))))
    assert handle.call("wait_for_completion", "task-1").status == "completed"


def test_wait_timeout_with_an_unavailable_server(kind: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        handle.clock.now += request.extensions["timeout"]["read"]
        raise httpx.ReadTimeout("slow")

    handle = Handle(kind, answer)
    with pytest.raises(WaitTimeout, match="its state is unknown"):
        handle.call("wait_for_completion", "task-1", timeout=3)
    assert handle.clock.now == 1003


def test_client_errors_are_not_reported_as_timeout(kind: str) -> None:
    with pytest.raises(NotFound):
        Handle(kind, in_turn(refused(404))).call("wait_for_completion", "task-1", timeout=0)


def test_a_failure_is_an_end(kind: str) -> None:
    handle = Handle(kind, states(task("failed")))
    assert handle.call("wait_for_completion", "task-1", raise_on_failure=False).status == "failed"


def test_failures_by_reason_and_node(kind: str) -> None:
    failures = [failure(f"node-{number}", "ImageNotFound") for number in range(7)] + [failure("node-9", "TLS")]
    body = task("failed", failed=8, failedNodeDetails=failures, message="warm on 1 of 9 nodes")
    with pytest.raises(TaskFailed) as raised:
        Handle(kind, states(body)).call("wait_for_completion", "task-1")
    assert str(raised.value) == (
        "task-1 failed: warm on 1 of 9 nodes\n"
        "  ImageNotFound (nginx:1.27) on node-0, node-1, node-2, node-3, node-4 and 2 more: not found\n"
        "  TLS (nginx:1.27) on node-9: not found"
    )
    assert {reason: len(found) for reason, found in raised.value.failures.items()} == {"ImageNotFound": 7, "TLS": 1}
    assert raised.value.task.status == "failed"


@pytest.mark.parametrize(("status", "raises"), [("cancelled", True), ("completed", False)])
def test_which_ends_are_failures(kind: str, status: str, raises: bool) -> None:
    handle = Handle(kind, states(task(status)))
    if raises:
        with pytest.raises(TaskFailed, match=f"task-1 {status}"):
            handle.call("wait_for_completion", "task-1")
    else:
        assert handle.call("wait_for_completion", "task-1").status == status


LINES = [
    "task-1 [######------------------]  25.0% running, 1/4 nodes, batch 1/2",
    "task-1 [########################] 100.0% completed, 4/4 nodes, 1 failed, batch 1/2",
]


def test_progress_as_lines(kind: str) -> None:
    out = io.StringIO()
    handle = Handle(kind, states(task(), task(message="other"), task("completed", 4, 1)))
    handle.call("wait_for_completion", "task-1", progress=out)
    assert out.getvalue().splitlines() == LINES


def test_progress_as_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal()
    Handle(kind, states(task(), task("completed", 4, 1))).call("wait_for_completion", "task-1", progress=out)
    assert out.getvalue() == "".join(f"\r{line}\x1b[K" for line in LINES) + "\n"


def test_a_narrow_terminal(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    Handle(kind, states(task("completed"))).call("wait_for_completion", "task-1", progress=out)
    assert out.getvalue() == "\rtask-1 [######-----\x1b[K\n"


def test_progress_on_stderr(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Handle(kind, states(task("completed", 4, 1))).call("wait_for_completion", "task-1", progress=True)
    assert capsys.readouterr() == ("", LINES[1] + "\n")


def test_no_progress(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Handle(kind, states(task("completed"))).call("wait_for_completion", "task-1")
    assert capsys.readouterr() == ("", "")


def test_terminal_line_is_ended_after_an_error(kind: str) -> None:
    out = Terminal()
    handle = Handle(kind, in_turn(httpx.Response(200, json=task()), refused(404)))
    with pytest.raises(Exception, match="404"):
        handle.call("wait_for_completion", "task-1", progress=out)
    assert out.getvalue().endswith("\n")
