"""Test helpers: a common handle for both clients, a fake clock, and a transport that calls a function."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Callable, NoReturn

import httpx
import pytest

from prewarmer import AsyncPrewarmClient, PrewarmClient

URL = "http://prewarmer.test"
TOKEN = "prw_ci_s3cr3t"

Answer = Callable[[httpx.Request], httpx.Response]


def not_run(why: str) -> NoReturn:
    """Skips a test that cannot run here; fails in strict mode (CI=true or PREWARMER_TEST_STRICT=1)."""
    strict = os.environ.get("CI") in ("true", "1") or os.environ.get("PREWARMER_TEST_STRICT") == "1"
    if strict:
        pytest.fail(f"a test that cannot run is a failure in strict mode: {why}")
    pytest.skip(f"NOT RUN: {why}")


@dataclass
class Live:
    """URL of a server, and the namespace to use."""

    url: str
    namespace: str | None


class Clock:
    """Fake clock that advances only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Handle:
    """Common interface of both clients."""

    def __init__(self, kind: str, answer: Answer | None, **options: Any) -> None:
        self.clock = Clock()
        self.requests: list[httpx.Request] = []

        def take(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            assert answer
            return answer(request)

        # Without a function, requests use the network.
        transport = httpx.MockTransport(take) if answer else None
        options = {"base_url": URL, "token": TOKEN, "transport": transport, **options}
        self.client: PrewarmClient | AsyncPrewarmClient
        if kind == "sync":
            self.client = PrewarmClient(**options)
            self.client._sleep = self.clock.sleep
        else:
            self.client = AsyncPrewarmClient(**options)
            self.client._sleep = self.clock.async_sleep
        self.client._clock = self.clock
        self.client._random = lambda: 1.0

    def call(self, method: str, *values: Any, **options: Any) -> Any:
        """Calls a method, and returns its result; of an iterator, a list of all items."""
        made = getattr(self.client, method)(*values, **options)
        if hasattr(made, "__aiter__"):
            return asyncio.run(_all(made))
        if inspect.iscoroutine(made):
            return asyncio.run(made)
        return list(made) if isinstance(made, Iterator) else made

    def bodies(self) -> list[Any]:
        """Returns the bodies of the requests."""
        return [json.loads(request.content) for request in self.requests]


async def _all(made: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in made]


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Body in chunks, which may end with a connection error."""

    def __init__(self, *chunks: bytes, broken: bool = False) -> None:
        self._chunks = chunks
        self._broken = broken

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._broken:
            raise httpx.ReadError("connection reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def in_turn(*answers: httpx.Response | Exception) -> Answer:
    """Returns a handler that returns one answer after another; a further request fails the test."""
    rest = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        one = next(rest)
        if isinstance(one, Exception):
            raise one
        # A new object, because a response belongs to the client that received it.
        if isinstance(one.stream, Stream):
            return httpx.Response(one.status_code, headers=one.headers, stream=one.stream)
        return httpx.Response(one.status_code, headers=one.headers, content=one.content)

    return answer


def always(status: int, body: object, headers: dict[str, str] | None = None) -> Answer:
    """Returns a handler that always returns the same answer."""
    return lambda request: httpx.Response(status, json=body, headers=headers)


def refused(code: int, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
    """Returns an error response in the format of the server."""
    return httpx.Response(code, json={"error": "no", **body}, headers=headers)


def task(status: str = "running", completed: int = 1, failed: int = 0, **more: object) -> dict[str, Any]:
    """Returns the JSON of a task of four nodes."""
    progress = {
        "totalNodes": 4,
        "completedNodes": completed,
        "failedNodes": failed,
        "currentBatch": 1,
        "totalBatches": 2,
        "percentage": 25.0 * completed,
    }
    return {
        "taskId": "task-1",
        "namespace": "shop",
        "status": status,
        "images": ["nginx:1.27"],
        "batchSize": "50%",
        "nodeSelector": {"type": "fake"},
        "priority": 5,
        "maxRetries": 0,
        "retryStrategy": "linear",
        "retryDelay": 30,
        "origin": "rest",
        "progress": progress,
        "imageDetails": [],
        "failedNodeDetails": [],
        "message": "at work",
        "createdAt": "2026-11-21T21:29:50Z",
        "finishedAt": None,
        **more,
    }


CREATED = {
    "taskId": "task-1",
    "namespace": "shop",
    "status": "pending",
    "images": ["nginx:1.27"],
    "batchSize": 10,
    "message": "The task was created",
}

SCHEDULE = {
    "id": "schedule-1",
    "namespace": "shop",
    "name": "nightly",
    "description": "",
    "cronExpr": "30 2 * * *",
    "timezone": "UTC",
    "enabled": True,
    "taskConfig": {"images": ["nginx:1.27"], "batchSize": 10, "namespace": "shop"},
    "overlapPolicy": "skip",
    "timeoutSeconds": None,
    "historyLimit": 10,
    "nextExecutionAt": "2026-11-22T02:30:00Z",
    "createdBy": "token:ci",
}


EXTRACTED = {
    "workload": "Deployment/web",
    "namespace": "shop",
    "verdict": "wanted",
    "images": ["nginx:1.27"],
    "placement": {"nodeSelector": {"type": "fake"}},
    "credentials": {"imagePullSecrets": ["registry"], "serviceAccountName": "puller"},
    "nodes": "25%",
    "warnings": ["prewarm/nodes: not a number"],
    "nodeCount": 30,
    "nodeNames": ["node-1", "node-2"],
}


def failure(node: str, reason: str) -> dict[str, str]:
    """Returns the JSON of a failure on a node."""
    return {
        "nodeName": node,
        "image": "nginx:1.27",
        "reason": reason,
        "message": "not found",
        "timestamp": "2026-11-21T21:29:58Z",
    }
