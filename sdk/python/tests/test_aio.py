"""Tests of the asynchronous client, and that both clients have the same interface."""

from __future__ import annotations

import asyncio
import inspect

import httpx
import pytest

from prewarmer import AsyncPrewarmClient, PrewarmClient, TaskView

from .harness import TOKEN, URL, Handle, Stream, always, task
from .test_watch import event

METHODS = [name for name in vars(PrewarmClient) if not name.startswith("_")]


@pytest.mark.parametrize("name", [*METHODS, "__init__"])
def test_both_clients_have_the_same_signatures(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(one, name)) for one in (PrewarmClient, AsyncPrewarmClient))
    assert [str(one).replace("Async", "") for one in theirs.parameters.values()] == [
        str(one) for one in ours.parameters.values()
    ]
    given = str(theirs.return_annotation).replace("Async", "").replace("Generator[models.TaskView, None]", "Generator")
    assert given == str(ours.return_annotation).replace("Generator[models.TaskView, None, None]", "Generator")


@pytest.mark.parametrize("name", METHODS)
def test_both_clients_have_the_same_docstrings(name: str) -> None:
    ours, theirs = (inspect.getdoc(getattr(one, name)) for one in (PrewarmClient, AsyncPrewarmClient))
    assert ours
    assert theirs
    assert ours.splitlines()[0] == theirs.splitlines()[0]


def test_both_clients_have_the_same_methods() -> None:
    assert [name for name in vars(AsyncPrewarmClient) if not name.startswith("_")] == METHODS


def test_coroutine_callback() -> None:
    seen = []

    async def callback(one: TaskView) -> None:
        seen.append(one.status)

    Handle("async", always(200, task("completed"))).call("wait_for_completion", "task-1", callback=callback)
    assert seen == ["completed"]


class Watched(Stream):
    """Stream that records whether it was closed."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


def _watching(stream: Watched) -> httpx.MockTransport:
    headers = {"Content-Type": "text/event-stream"}
    return httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, stream=stream))


def test_stopped_watch_is_closed() -> None:
    stream = Watched(event(1, task()), event(2, task()))

    async def leave() -> None:
        async with AsyncPrewarmClient(URL, transport=_watching(stream)) as client:
            states = client.watch_task("task-1")
            await states.__anext__()
            await states.aclose()
            assert stream.closed

    asyncio.run(leave())


def test_stopped_watch_is_closed_by_the_synchronous_client() -> None:
    stream = Watched(event(1, task()), event(2, task()))
    with PrewarmClient(URL, transport=_watching(stream)) as client:
        states = client.watch_task("task-1")
        next(states)
        states.close()
        assert stream.closed


def test_clients_are_closed() -> None:
    async def use() -> None:
        async with AsyncPrewarmClient(URL, transport=httpx.MockTransport(always(200, task()))) as client:
            await client.get_task("task-1")
        with pytest.raises(RuntimeError, match="closed"):
            await client.get_task("task-1")

    asyncio.run(use())
    with PrewarmClient(URL, transport=httpx.MockTransport(always(200, task()))) as other:
        other.get_task("task-1")
    with pytest.raises(RuntimeError, match="closed"):
        other.get_task("task-1")


@pytest.mark.parametrize("client", [PrewarmClient, AsyncPrewarmClient])
def test_repr(client: type[PrewarmClient]) -> None:
    shown = repr(client(URL, TOKEN, namespace="shop"))
    assert shown == f"{client.__name__}('{URL}/api/v1', namespace='shop')"
