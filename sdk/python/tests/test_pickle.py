from __future__ import annotations

import pickle

import pytest

from prewarmer import Conflict, InvalidAnswer, PrewarmError, TaskFailed, TaskView, TransportError, WaitTimeout

from .harness import URL, failure, task

VIEW = TaskView.model_validate(task("failed", failedNodeDetails=[failure("node-7", "TLS")]))


@pytest.mark.parametrize(
    "error",
    [
        Conflict(409, "it has ended", status="completed", url=URL),
        InvalidAnswer("a page", status_code=200, url=URL),
        TransportError("no connection", sent=False),
        WaitTimeout("task-1", 5, VIEW),
        TaskFailed(VIEW),
    ],
    ids=repr,
)
def test_errors_pass_between_processes(error: PrewarmError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
