from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from prewarmer import ApiError, Conflict, NotFound, TransportError, Unavailable

from .harness import CREATED, SCHEDULE, Handle, always, in_turn, refused, task

pytestmark = pytest.mark.parametrize("kind", ["sync", "async"])

TRIGGERED = {"id": "schedule-1", "message": "The execution starts"}
DONE = {"id": "schedule-1", "message": "deleted"}
PASSING = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("closed"),
    refused(429),
    refused(502),
    refused(503),
    refused(504),
]
SAFE: list[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = [
    ("get_task", ("task-1",), {}, task()),
    ("cancel_task", ("task-1",), {}, {"taskId": "task-1", "status": "cancelled", "message": "ok"}),
    ("create_task", (["nginx:1.27"],), {}, CREATED),
    ("retry_task", ("task-1",), {}, CREATED),
    ("replace_schedule", ("schedule-1",), {"cron_expr": "@daily"}, SCHEDULE),
    ("enable_schedule", ("schedule-1",), {}, SCHEDULE),
    ("delete_schedule", ("schedule-1",), {}, DONE),
    ("extract", ({"kind": "Pod"},), {}, {"workloads": [], "skipped": []}),
]
ONCE: list[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = [
    ("create_schedule", (), {"cron_expr": "@daily"}, SCHEDULE),
    ("trigger_schedule", ("schedule-1",), {}, TRIGGERED),
]


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
@pytest.mark.parametrize(("method", "values", "options", "body"), SAFE, ids=lambda value: str(value)[:16])
def test_idempotent_calls_are_retried(
    kind: str, trouble: Any, method: str, values: Any, options: Any, body: dict[str, Any]
) -> None:
    handle = Handle(kind, in_turn(trouble, httpx.Response(200, json=body)))
    assert handle.call(method, *values, **options).to_dict() == body
    assert handle.clock.slept == [0.5]
    assert handle.requests[0].content == handle.requests[1].content


@pytest.mark.parametrize("trouble", [httpx.ReadTimeout("slow"), refused(502), refused(503), refused(504)], ids=repr)
@pytest.mark.parametrize(("method", "values", "options", "body"), ONCE)
def test_other_calls_are_not_retried_after_uncertain_failures(
    kind: str, trouble: Any, method: str, values: Any, options: Any, body: dict[str, Any]
) -> None:
    handle = Handle(kind, in_turn(trouble, httpx.Response(200, json=body)))
    with pytest.raises((TransportError, Unavailable)):
        handle.call(method, *values, **options)
    assert len(handle.requests) == 1


@pytest.mark.parametrize("trouble", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), refused(429)])
@pytest.mark.parametrize(("method", "values", "options", "body"), ONCE)
def test_all_calls_are_retried_if_not_processed(
    kind: str, trouble: Any, method: str, values: Any, options: Any, body: dict[str, Any]
) -> None:
    handle = Handle(kind, in_turn(trouble, httpx.Response(200, json=body)))
    assert handle.call(method, *values, **options).to_dict() == body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 415, 422, 500])
def test_client_errors_are_not_retried(kind: str, status: int) -> None:
    handle = Handle(kind, always(status, {"error": "no"}))
    with pytest.raises(ApiError) as caught:
        handle.call("get_task", "task-1")
    assert (caught.value.status_code, len(handle.requests)) == (status, 1)


def test_pauses_grow_and_tries_are_counted(kind: str) -> None:
    handle = Handle(kind, always(503, {"error": "no leader"}), retries=6)
    with pytest.raises(Unavailable, match="no leader"):
        handle.call("get_task", "task-1")
    assert handle.clock.slept == [0.5, 1, 2, 4, 8, 8]


def test_half_of_the_delay_is_random(kind: str) -> None:
    handle = Handle(kind, in_turn(refused(503), httpx.Response(200, json=task())))
    handle.client._random = lambda: 0.0
    handle.call("get_task", "task-1")
    assert handle.clock.slept == [0.25]


def test_retries_can_be_disabled(kind: str) -> None:
    handle = Handle(kind, always(503, {"error": "no"}), retries=0)
    with pytest.raises(Unavailable):
        handle.call("get_task", "task-1")
    assert len(handle.requests) == 1


def test_retry_time_is_limited(kind: str) -> None:
    handle = Handle(kind, always(503, {"error": "no"}), retries=100, retry_seconds=10)
    with pytest.raises(Unavailable):
        handle.call("get_task", "task-1")
    assert handle.clock.slept == [0.5, 1, 2, 4]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(kind: str, status: int) -> None:
    handle = Handle(kind, in_turn(refused(status, {"Retry-After": "7"}), httpx.Response(200, json=task())))
    handle.call("get_task", "task-1")
    assert handle.clock.slept == [7.5]


def test_retry_after_may_be_a_date(kind: str) -> None:
    then = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    handle = Handle(kind, in_turn(refused(503, {"Retry-After": then}), httpx.Response(200, json=task())))
    handle.call("get_task", "task-1")
    assert 15 < handle.clock.slept[0] < 21


def test_retry_after_beyond_the_limit_is_reported(kind: str) -> None:
    handle = Handle(kind, always(429, {"error": "slower"}, {"Retry-After": "3600"}))
    with pytest.raises(ApiError) as caught:
        handle.call("get_task", "task-1")
    assert (caught.value.retry_after, handle.clock.slept) == (3600.0, [])


CREATIONS = pytest.mark.parametrize(("method", "value"), [("create_task", ["nginx:1.27"]), ("retry_task", "task-1")])


@CREATIONS
def test_creations_keep_their_key_in_retries(kind: str, method: str, value: Any) -> None:
    lost = httpx.ReadError("lost")
    handle = Handle(
        kind, in_turn(lost, refused(503), httpx.Response(201, json=CREATED), httpx.Response(201, json=CREATED))
    )
    handle.call(method, value)
    handle.call(method, value)
    keys = [request.headers["Idempotency-Key"] for request in handle.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]


@CREATIONS
def test_the_key_may_be_given(kind: str, method: str, value: Any) -> None:
    handle = Handle(kind, always(201, CREATED))
    handle.call(method, value, idempotency_key="release-1.27")
    assert handle.requests[0].headers["Idempotency-Key"] == "release-1.27"


def test_retry_of_a_running_task(kind: str) -> None:
    handle = Handle(kind, in_turn(refused(409, status="running")))
    with pytest.raises(Conflict) as caught:
        handle.call("retry_task", "task-1")
    assert caught.value.status == "running"


def test_a_cancellation_whose_answer_was_lost(kind: str) -> None:
    handle = Handle(kind, in_turn(httpx.ReadError("lost"), refused(409, status="cancelled")))
    assert handle.call("cancel_task", "task-1").status == "cancelled"


@pytest.mark.parametrize(
    "answers",
    [
        (refused(409, status="cancelled"),),
        (refused(429), refused(409, status="cancelled")),
        (httpx.ConnectError("refused"), refused(409, status="cancelled")),
        (httpx.ReadError("lost"), refused(409, status="completed")),
    ],
)
def test_cancellation_by_another_client(kind: str, answers: Any) -> None:
    handle = Handle(kind, in_turn(*answers))
    with pytest.raises(Conflict):
        handle.call("cancel_task", "task-1")


def test_a_deletion_whose_answer_was_lost(kind: str) -> None:
    handle = Handle(kind, in_turn(refused(504), refused(404)))
    assert handle.call("delete_schedule", "schedule-1").id == "schedule-1"


def test_deletion_of_a_missing_schedule(kind: str) -> None:
    handle = Handle(kind, in_turn(refused(429), refused(404)))
    with pytest.raises(NotFound):
        handle.call("delete_schedule", "schedule-1")
