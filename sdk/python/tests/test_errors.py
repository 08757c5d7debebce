from __future__ import annotations

import io
import logging
import socket
import traceback
from typing import Any

import httpx
import pytest

import prewarmer
from prewarmer import (
    ApiError,
    BadRequest,
    InvalidAnswer,
    PrewarmError,
    TransportError,
    Unavailable,
)

from .harness import TOKEN, URL, Handle, always, task

pytestmark = pytest.mark.parametrize("kind", ["sync", "async"])

CLASSES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    422: "BadRequest",
    429: "TooManyRequests",
    500: "ApiError",
    502: "Unavailable",
    503: "Unavailable",
    504: "Unavailable",
}


def caught(handle: Handle, method: str = "get_task", *values: Any) -> Any:
    with pytest.raises(PrewarmError) as raised:
        handle.call(method, *(values or ("task-1",)))
    return raised.value


@pytest.mark.parametrize(("status", "name"), CLASSES.items())
def test_each_status_has_its_class(kind: str, status: int, name: str) -> None:
    error = caught(Handle(kind, always(status, {"error": "no"}), retries=0))
    assert type(error) is getattr(prewarmer, name)


def test_error_contains_all_fields_of_the_response(kind: str) -> None:
    details = [{"field": "batchSize", "message": "0: expected 1 to 100"}, {"field": "", "message": "all of it"}]
    body = {"error": "2 fields are invalid", "details": details, "taskId": "task-1", "status": "completed"}
    headers = {"X-Request-Id": "r-1", "Retry-After": "3"}
    error = caught(Handle(kind, always(400, body, headers)), "create_task", ["nginx:1.27"])
    assert isinstance(error, BadRequest)
    assert str(error) == (
        "400 Bad Request: 2 fields are invalid: batchSize: 0: expected 1 to 100; all of it"
        f" (POST {URL}/api/v1/tasks, request r-1)"
    )
    assert (error.message, error.task_id, error.status) == ("2 fields are invalid", "task-1", "completed")
    assert (error.request_id, error.retry_after, error.method) == ("r-1", 3.0, "POST")
    assert [one.field for one in error.details] == ["batchSize", ""]


def test_a_status_without_a_name(kind: str) -> None:
    assert str(caught(Handle(kind, always(599, {"error": "odd"})))).startswith("599 Error: odd")


@pytest.mark.parametrize("status", [200, 401, 404, 500])
@pytest.mark.parametrize("page", ["<html>Sign in</html>", '{"error": {"code": 5}}', "[]", ""])
def test_page_of_a_proxy(kind: str, status: int, page: str) -> None:
    error = caught(Handle(kind, lambda request: httpx.Response(status, text=page)))
    assert isinstance(error, InvalidAnswer)
    assert error.status_code == status
    assert f"{URL}/api/v1/tasks/task-1 answered {status}" in str(error)
    assert page in str(error)


def test_a_long_page_is_cut(kind: str) -> None:
    error = caught(Handle(kind, lambda request: httpx.Response(200, text="x" * 100_000)))
    assert len(str(error)) < 600


def test_bad_gateway_of_a_proxy(kind: str) -> None:
    error = caught(Handle(kind, lambda request: httpx.Response(502, text="<h1>Bad Gateway</h1>"), retries=0))
    assert isinstance(error, Unavailable)
    assert "<h1>Bad Gateway</h1>" in str(error)


def test_missing_fields_in_a_response(kind: str) -> None:
    error = caught(Handle(kind, always(200, task(progress={"totalNodes": "many"}))))
    assert isinstance(error, InvalidAnswer)
    assert "an invalid TaskView (progress.completedNodes: Field required; " in str(error)


@pytest.mark.parametrize("target", ["https://elsewhere.test/api/v1/tasks/task-1", "/login"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(kind: str, status: int, target: str) -> None:
    handle = Handle(kind, lambda request: httpx.Response(status, headers={"Location": target}))
    error = caught(handle)
    assert isinstance(error, InvalidAnswer)
    assert target in str(error)
    assert [str(request.url.host) for request in handle.requests] == ["prewarmer.test"]


def test_no_redirect_of_a_watch_is_followed(kind: str) -> None:
    handle = Handle(kind, lambda request: httpx.Response(307, headers={"Location": "https://elsewhere.test/"}))
    assert isinstance(caught(handle, "watch_task"), InvalidAnswer)
    assert len(handle.requests) == 1


def test_connection_refused(kind: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        error = caught(Handle(kind, None, base_url=url, retries=1))
    assert isinstance(error, TransportError)
    assert f"no connection to {url}/api/v1/tasks/task-1" in str(error)
    assert "PREWARMER_URL" in str(error)
    assert (error.sent, error.transient) == (False, True)


@pytest.mark.parametrize("trouble", [httpx.ReadTimeout(""), httpx.UnsupportedProtocol("odd"), httpx.ConnectError("x")])
def test_transport_errors(kind: str, trouble: httpx.HTTPError) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise trouble

    error = caught(Handle(kind, answer, retries=1))
    assert isinstance(error, TransportError)
    assert f"{URL}/api/v1/tasks/task-1" in str(error)


def test_the_token_is_sent_and_shown_nowhere(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    out = io.StringIO()
    for status in (401, 500):
        handle = Handle(kind, always(status, {"error": "no"}))
        error = caught(handle)
        assert isinstance(error, ApiError)
        assert handle.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"
        out.write(
            repr(error) + str(error) + "".join(traceback.format_exception(type(error), error, error.__traceback__))
        )
        out.write(repr(handle.client) + repr(vars(handle.client)))
    assert TOKEN not in out.getvalue() + caplog.text
    assert "/api/v1/tasks/task-1" in caplog.text


@pytest.mark.parametrize("character", ["\n", "\r", "\x00", " ", "\N{EURO SIGN}"])
def test_a_token_that_cannot_be_sent_is_not_quoted(kind: str, character: str) -> None:
    handle = Handle(kind, always(200, {}), token=f"s3cr3t{character}s3cr3t")
    error = caught(handle)
    assert "s3cr3t" not in "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert handle.requests == []
