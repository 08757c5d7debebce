from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from .harness import SCHEDULE, Handle, task

pytestmark = pytest.mark.parametrize("kind", ["sync", "async"])

RUN = {"id": 1, "scheduledTaskId": "s", "status": "success", "trigger": "manual", "triggeredAt": "2026-11-21T21:30:24Z"}
NODE = {
    "name": "node-1",
    "eligible": True,
    "ready": True,
    "unschedulable": False,
    "architecture": "amd64",
    "os": "linux",
    "runtime": "containerd",
    "imageVolumes": True,
    "labels": {},
}


def paged(name: str, row: dict[str, Any], total: int) -> Any:
    """Returns the handler of a server with `total` rows, by offset."""

    def answer(request: httpx.Request) -> httpx.Response:
        limit, offset = int(request.url.params["limit"]), int(request.url.params["offset"])
        rows = [row] * max(0, min(limit, total - offset))
        return httpx.Response(200, json={name: rows, "total": total, "limit": limit, "offset": offset})

    return answer


@pytest.mark.parametrize(("total", "calls"), [(0, 1), (1, 1), (2, 1), (3, 2), (5, 3)])
@pytest.mark.parametrize(
    ("method", "values", "name", "row"),
    [
        ("iter_schedules", (), "tasks", SCHEDULE),
        ("iter_executions", ("s",), "executions", RUN),
        ("iter_nodes", (), "nodes", NODE),
    ],
)
def test_pages_by_offset(
    kind: str, method: str, values: tuple[str, ...], name: str, row: dict[str, Any], total: int, calls: int
) -> None:
    handle = Handle(kind, paged(name, row, total))
    assert [one.to_dict() for one in handle.call(method, *values, page_size=2)] == [row] * total
    assert len(handle.requests) == calls


def test_rows_deleted_during_iteration(kind: str) -> None:
    pages = iter([[NODE, NODE], []])
    body = {"total": 4, "limit": 2, "offset": 0}
    handle = Handle(kind, lambda request: httpx.Response(200, json={"nodes": next(pages), **body}))
    assert len(handle.call("iter_nodes", page_size=2)) == 2


def test_search_is_kept_in_all_pages(kind: str) -> None:
    search = "a&b=c d+e%f/\N{SNOWMAN}"
    escaped = "a%26b%3Dc%20d%2Be%25f%2F%E2%98%83"
    link = f'</api/v1/tasks?limit=1&offset=1&search={escaped}&until=17~shop~task-1>; rel="next"'
    body = {"tasks": [task()], "total": 2, "limit": 1, "offset": 0}
    answers = iter([httpx.Response(200, json=body, headers={"Link": link}), httpx.Response(200, json=body)])
    handle = Handle(kind, lambda request: next(answers))
    assert len(handle.call("iter_tasks", search=search, page_size=1)) == 2
    assert [request.url.params["search"] for request in handle.requests] == [search, search]


def test_a_search_in_one_page(kind: str) -> None:
    handle = Handle(kind, lambda request: httpx.Response(200, json={"tasks": [], "total": 0, "limit": 5, "offset": 0}))
    handle.call("list_tasks", search="nginx:1.27", status="failed", limit=5)
    assert dict(handle.requests[0].url.params) == {"limit": "5", "status": "failed", "search": "nginx:1.27"}


@pytest.mark.parametrize("host", ["", "https://elsewhere.test"])
def test_tasks_by_link(kind: str, host: str) -> None:
    link = f'<{host}/api/v1/tasks?limit=1&offset=1&status=running&until=17~shop~task-1>; rel="next"'
    body = {"tasks": [task()], "total": 2, "limit": 1, "offset": 0}
    answers = iter([httpx.Response(200, json=body, headers={"Link": link}), httpx.Response(200, json=body)])
    handle = Handle(kind, lambda request: next(answers))
    assert len(handle.call("iter_tasks", status="running", page_size=1)) == 2
    assert dict(handle.requests[0].url.params) == {"limit": "1", "status": "running"}
    assert dict(handle.requests[1].url.params) == {
        "limit": "1",
        "offset": "1",
        "status": "running",
        "until": "17~shop~task-1",
    }
    assert {request.url.host for request in handle.requests} == {"prewarmer.test"}


def test_pages_are_requested_lazily(kind: str) -> None:
    async def one(made: AsyncIterator[Any]) -> None:
        await made.__anext__()

    handle = Handle(kind, paged("nodes", NODE, 100))
    made = handle.client.iter_nodes(page_size=10)
    assert handle.requests == []
    if isinstance(made, Iterator):
        next(made)
    else:
        asyncio.run(one(made))
    assert len(handle.requests) == 1
