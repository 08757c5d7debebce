from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prewarmer import AsyncPrewarmClient, PrewarmClient, PrewarmError

from .harness import CREATED, SCHEDULE, TOKEN, URL, Handle, always, task

FORMS = {
    "http://h:8080": "http://h:8080/api/v1/tasks/task-1",
    "http://h:8080/": "http://h:8080/api/v1/tasks/task-1",
    "http://h:8080/api/v1": "http://h:8080/api/v1/tasks/task-1",
    "http://h:8080/api/v1/": "http://h:8080/api/v1/tasks/task-1",
    " https://h/prewarm/ ": "https://h/prewarm/api/v1/tasks/task-1",
    "https://[::1]:8080/?a=b#c": "https://[::1]:8080/api/v1/tasks/task-1",
}


@pytest.mark.parametrize(("base_url", "called"), FORMS.items())
def test_forms_of_the_address(base_url: str, called: str) -> None:
    handle = Handle("sync", always(200, task()), base_url=base_url)
    handle.call("get_task", "task-1")
    assert str(handle.requests[0].url) == called


@pytest.mark.parametrize("base_url", ["localhost:8080", "h", "ftp://h", "http://", "http://h:x", "http://u:s3cr3t@h"])
@pytest.mark.parametrize("client", [PrewarmClient, AsyncPrewarmClient])
def test_invalid_base_urls(client: type[Any], base_url: str) -> None:
    with pytest.raises(PrewarmError, match="base_url") as raised:
        client(base_url)
    assert "s3cr3t" not in str(raised.value)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrewarmError, match="PREWARMER_URL"):
        PrewarmClient()
    monkeypatch.setenv("PREWARMER_URL", "http://from-environment")
    monkeypatch.setenv("PREWARMER_TOKEN", "from-environment")
    handle = Handle("sync", always(200, task()), base_url=None, token=None)
    handle.call("get_task", "task-1")
    assert handle.requests[0].url.host == "from-environment"
    assert handle.requests[0].headers["Authorization"] == "Bearer from-environment"


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREWARMER_URL", "http://from-environment")
    monkeypatch.setenv("PREWARMER_TOKEN", "from-environment")
    handle = Handle("sync", always(200, task()))
    handle.call("get_task", "task-1")
    assert str(handle.requests[0].url).startswith(URL)
    assert handle.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_no_token() -> None:
    handle = Handle("sync", always(200, task()), token=None)
    handle.call("get_task", "task-1")
    assert "Authorization" not in handle.requests[0].headers


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_token_that_is_renewed(kind: str) -> None:
    tokens = iter(["one\n", "two\n"])
    handle = Handle(kind, always(200, task()), token=lambda: next(tokens))
    handle.call("get_task", "task-1")
    handle.call("get_task", "task-1")
    assert [request.headers["Authorization"] for request in handle.requests] == ["Bearer one", "Bearer two"]


def test_a_token_that_is_no_text() -> None:
    handle = Handle("sync", always(200, task()), token=lambda: b"bytes")
    with pytest.raises(PrewarmError, match="must be a string"):
        handle.call("get_task", "task-1")


def test_the_file_of_the_ca(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = tmp_path / "ca.crt"
    with pytest.raises(PrewarmError, match=r"ca\.crt cannot be used"):
        PrewarmClient(URL, verify=str(absent))
    monkeypatch.setenv("PREWARMER_CA_FILE", str(absent))
    with pytest.raises(PrewarmError, match=r"ca\.crt cannot be used"):
        PrewarmClient(URL)
    absent.write_text("no certificate")
    with pytest.raises(PrewarmError, match=r"ca\.crt cannot be used"):
        PrewarmClient(URL)
    PrewarmClient(URL, verify=False).close()


EMPTY = {"tasks": [], "total": 0, "limit": 10, "offset": 0}


def _namespaces(namespace: str | None) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]]:
    yield "get_task", ("task-1",), {"namespace": namespace}, task()
    yield "list_tasks", (), {"namespace": namespace}, EMPTY
    yield "iter_tasks", (), {"namespace": namespace}, EMPTY
    yield "list_schedules", (), {"namespace": namespace}, EMPTY
    yield "get_schedule", ("s",), {"namespace": namespace}, SCHEDULE
    yield "replace_schedule", ("s",), {"namespace": namespace}, SCHEDULE
    yield "wait_for_completion", ("task-1",), {"namespace": namespace}, task("completed")


@pytest.mark.parametrize(("own", "asked"), [(None, "shop"), ("bank", "bank")])
def test_the_namespace_of_a_client(own: str | None, asked: str) -> None:
    for method, values, options, body in _namespaces(own):
        handle = Handle("sync", always(200, body), namespace="shop")
        handle.call(method, *values, **options)
        assert handle.requests[0].url.params["namespace"] == asked, method


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("of_client", "of_call", "asked"),
    [
        (None, None, "bank"),
        (None, "shop", "shop"),
        (None, "", ""),
        ("shop", None, "shop"),
        ("", None, None),
        ("", "shop", "shop"),
    ],
)
def test_the_namespace_of_the_environment(
    kind: str, of_client: str | None, of_call: str | None, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREWARMER_NAMESPACE", "bank")
    for method, body in (("list_tasks", EMPTY), ("iter_tasks", EMPTY), ("list_schedules", EMPTY)):
        handle = Handle(kind, always(200, body), namespace=of_client)
        handle.call(method, namespace=of_call)
        assert handle.requests[0].url.params.get("namespace") == asked, method
    for method, values, body in (("create_task", (["a"],), CREATED), ("create_schedule", (), SCHEDULE)):
        handle = Handle(kind, always(201, body), namespace=of_client)
        handle.call(method, *values, namespace=of_call)
        assert handle.bodies()[0].get("namespace") == (of_call or of_client or ("bank" if of_client is None else None))


def test_an_empty_variable_is_no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREWARMER_NAMESPACE", "")
    handle = Handle("sync", always(200, EMPTY))
    handle.call("list_tasks")
    assert str(handle.requests[0].url) == f"{URL}/api/v1/tasks"


def test_all_namespaces_override_the_client() -> None:
    handle = Handle("sync", always(200, EMPTY), namespace="shop")
    handle.call("list_tasks", namespace="")
    assert handle.requests[0].url.params["namespace"] == ""


def test_no_default_namespace() -> None:
    handle = Handle("sync", always(200, task()))
    handle.call("get_task", "task-1")
    assert str(handle.requests[0].url) == f"{URL}/api/v1/tasks/task-1"
