"""Client for asyncio: the methods of `PrewarmClient` as coroutines and asynchronous iterators."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Callable

import httpx

from . import _calls as calls
from . import models
from ._answers import next_page, read, unanswered
from ._progress import Progress, Report
from ._retry import Attempts
from ._settings import Settings, Token, Verify, trust
from ._wait import Wait, ended
from ._watch import SILENCE, Watch
from .errors import PrewarmError, TooManyRequests, TransportError, Unavailable
from .models import Row
from .options import FurtherTaskOptions, Images, ScheduleOptions, TaskOptions

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack


class AsyncPrewarmClient:
    """Client of a Prewarmer server for one event loop, and any number of asyncio tasks in it.

    Close it, or use it in an `async with` statement.

    base_url: URL of the server, with or without `/api/v1`. Default: PREWARMER_URL.
    token: token, or a callable that returns the token for each request (for tokens that are renewed in a
        file). Default: PREWARMER_TOKEN. Servers without authentication need none.
    timeout: timeout in seconds of the connection and of each read of a response.
    verify: file of the CA that signed the server's certificate, or an `ssl.SSLContext`. True: the file in
        PREWARMER_CA_FILE, else the CAs of the system. False: no verification.
    retries: maximum number of retries of a call after connection errors, 429, 502, 503 and 504. Only
        idempotent calls are always retried; calls that create or trigger a schedule are retried only if the
        server cannot have processed them.
    namespace: default namespace of calls. Default: PREWARMER_NAMESPACE. "": no default, even if the variable is
        set; then the server uses its own namespace, and lists contain all namespaces that the caller may read.
    transport: custom `httpx` transport, for tests.
    retry_seconds: maximum time in seconds from the start of a call to its last retry.

    Every method raises `ApiError` for an error response, `TransportError` if there is no response, and
    `InvalidAnswer` if the response does not come from Prewarmer.
    """

    _sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)
    _clock: Callable[[], float] = staticmethod(time.monotonic)
    _random: Callable[[], float] = staticmethod(random.random)

    def __init__(
        self,
        base_url: str | None = None,
        token: Token | None = None,
        *,
        timeout: float = 30.0,
        verify: Verify = True,
        retries: int = 4,
        namespace: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        retry_seconds: float = 60.0,
    ) -> None:
        self._settings = Settings.of(base_url, token, timeout, retries, retry_seconds, namespace)
        self._http = httpx.AsyncClient(
            timeout=timeout, verify=trust(verify), transport=transport, follow_redirects=False
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._settings.base)!r}, namespace={self._settings.namespace!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. The client cannot be used afterwards."""
        await self._http.aclose()

    # -- tasks

    async def create_task(
        self,
        images: Images,
        batch_size: int | str | None = None,
        node_selector: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[FurtherTaskOptions],
    ) -> models.TaskCreated:
        """Creates a task, which pulls the images to the nodes.

        images: 1 to 100 image references; or a complete `TaskRequest` or dict, which the options override.
        batch_size: number of nodes per batch, 1 to 100, or a percentage such as "25%"; the server's default is 10.
        node_selector: labels that a node must have.
        idempotency_key: 1 to 255 characters. Within a day, calls with the same key create only one task; with
            a different body they fail with status 422. Default: a random key for each call and its retries.
        options: further fields of `TaskOptions`, such as max_retries=3, timeout="10m".

        Raises BadRequest with all invalid fields; TypeError for an unknown option.
        """
        namespace = self._settings.in_namespace(None)
        given: TaskOptions = {**options, "batch_size": batch_size, "node_selector": node_selector}
        return await self._call(calls.create_task(images, given, namespace, idempotency_key))

    async def get_task(self, task_id: str, *, namespace: str | None = None) -> models.TaskView:
        """Returns a task. Raises NotFound."""
        return await self._call(calls.get_task(task_id, self._settings.in_namespace(namespace)))

    async def list_tasks(
        self,
        status: str | None = None,
        limit: int | None = None,
        *,
        search: str | None = None,
        namespace: str | None = None,
        offset: int | None = None,
        until: str | None = None,
    ) -> models.TaskList:
        """Returns a page of the tasks, newest first.

        status: only tasks with this status.
        search: only tasks whose name or images contain this text, of at most 200 characters.
        namespace: only tasks in this namespace; "" for all namespaces, overriding the client's.
        limit: 1 to 100, default 10. offset: number of tasks to skip. until: value from a Link header.
        Tasks created between requests shift the pages by offset; `iter_tasks` is not affected.
        """
        query = self._page(namespace, limit, offset, status=status, search=search, until=until)
        return await self._call(calls.list_tasks(query))

    async def iter_tasks(
        self,
        *,
        status: str | None = None,
        search: str | None = None,
        namespace: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[models.TaskView]:
        """Iterates over all tasks as of its start, newest first, page by page (1 to 100 tasks each).

        status, search, namespace: see `list_tasks`.
        """
        query: dict[str, Any] | None = self._page(namespace, page_size, None, status=status, search=search)
        while query is not None:
            page, response = await self._exchange(calls.list_tasks(query))
            for one in page.tasks:
                yield one
            query = next_page(response)

    async def cancel_task(self, task_id: str, *, namespace: str | None = None) -> models.TaskCancelled:
        """Cancels a task: its workers are deleted, and no new ones are created.

        Raises Conflict, with the status of the task, if it has ended; NotFound.
        """
        return await self._call(calls.cancel_task(task_id, self._settings.in_namespace(namespace)))

    async def retry_task(
        self, task_id: str, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> models.TaskCreated:
        """Retries an ended task: creates a task with the same spec for the nodes that it did not warm.

        idempotency_key: see `create_task`.
        Raises Conflict, with the status of the task, if it has not ended, has no plan, or all its nodes are warm;
        NotFound.
        """
        return await self._call(calls.retry_task(task_id, self._settings.in_namespace(namespace), idempotency_key))

    async def watch_task(self, task_id: str, *, namespace: str | None = None) -> AsyncGenerator[models.TaskView, None]:
        """Iterates over states of the task: the current one, and one for each change until its end.

        It reconnects after connection errors. Intermediate states may be skipped if they are read too slowly; the
        final state is always delivered.
        Close the iterator if the iteration stops before the end, for example with `contextlib.aclosing`.
        """
        call = calls.watch_task(task_id, self._settings.in_namespace(namespace))
        watch = Watch(call, self._attempts)
        while True:
            failure = None
            try:
                states = self._states(watch)
                try:
                    async for one in states:
                        yield one
                finally:
                    # Otherwise the connection would stay open until garbage collection.
                    await states.aclose()
            except PrewarmError as error:
                failure = error
            if watch.ended:
                return
            await self._sleep(watch.pause(failure))

    async def wait_for_completion(
        self,
        task_id: str,
        timeout: float | None = 600.0,
        poll_interval: float = 5.0,
        *,
        interval: float | None = None,
        callback: Callable[[models.TaskView], object] | None = None,
        progress: Progress = False,
        raise_on_failure: bool = True,
        namespace: str | None = None,
    ) -> models.TaskView:
        """Waits for the end of a task, and returns its final state.

        timeout: seconds after which WaitTimeout is raised with the last state; the task continues. None: no limit.
        poll_interval, or interval: seconds between two requests.
        callback: function or coroutine function called with the first state and each changed state.
        progress: True writes the progress to stderr, a stream to that stream: one updated line on a terminal,
            otherwise one line for each change.
        raise_on_failure: False returns a task that failed or was cancelled. Otherwise it raises TaskFailed, with the
            task and its failures.
        """
        report = Report(progress)
        wait = Wait(task_id, timeout, poll_interval if interval is None else interval, report, self._clock)
        call = calls.get_task(task_id, self._settings.in_namespace(namespace))
        try:
            while True:
                task = await self._look(call, wait)
                if wait.saw(task) and callback:
                    outcome = callback(task)
                    if inspect.isawaitable(outcome):
                        await outcome
                if task.status.ended:
                    return ended(task, raise_on_failure)
                await self._sleep(wait.pause())
        finally:
            report.close()

    async def extract(self, manifest: str | bytes | Mapping[str, Any]) -> models.ExtractAnswer:
        """Returns the images of a manifest: YAML text with one or more documents, or one object as a dict."""
        return await self._call(calls.extract(manifest))

    # -- schedules

    async def create_schedule(
        self, request: Mapping[str, Any] | None = None, **options: Unpack[ScheduleOptions]
    ) -> models.ScheduleView:
        """Creates a schedule, which creates a task at each time of a cron expression.

        request: a `ScheduleRequest` or dict, which the options override; or only options, such as
        cron_expr="30 2 * * *", timezone="Europe/Berlin", task_config={"images": [...], "batch_size": 10}.
        """
        return await self._call(calls.create_schedule(request, options, self._settings.in_namespace(None)))

    async def list_schedules(
        self,
        *,
        enabled: bool | None = None,
        namespace: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> models.ScheduleList:
        """Returns a page of the schedules, by namespace and name, in the field `tasks`. limit: 1 to 100."""
        return await self._call(calls.list_schedules(self._page(namespace, limit, offset, enabled=enabled)))

    def iter_schedules(
        self, *, enabled: bool | None = None, namespace: str | None = None, page_size: int = 100
    ) -> AsyncIterator[models.ScheduleView]:
        """Iterates over all schedules, page by page (1 to 100 schedules each)."""
        return self._rows(
            lambda offset: self.list_schedules(enabled=enabled, namespace=namespace, limit=page_size, offset=offset)
        )

    async def get_schedule(self, schedule_id: str, *, namespace: str | None = None) -> models.ScheduleView:
        """Returns a schedule. Raises NotFound."""
        return await self._call(calls.get_schedule(schedule_id, self._settings.in_namespace(namespace)))

    async def replace_schedule(
        self, schedule_id: str, request: Mapping[str, Any] | None = None, **options: Unpack[ScheduleOptions]
    ) -> models.ScheduleView:
        """Changes a schedule. Omitted fields, also those of `task_config`, keep their values.

        A single field is changed with `client.replace_schedule(id, cron_expr="0 3 * * *")`. request may be a
        `ScheduleUpdate`, a `ScheduleView`, or a dict, in which None sets a field to its default value.
        """
        namespace = self._settings.in_namespace(None)
        return await self._call(calls.replace_schedule(schedule_id, request, options, namespace))

    async def delete_schedule(self, schedule_id: str, *, namespace: str | None = None) -> models.ScheduleDone:
        """Deletes a schedule and its tasks."""
        return await self._call(calls.delete_schedule(schedule_id, self._settings.in_namespace(namespace)))

    async def enable_schedule(self, schedule_id: str, *, namespace: str | None = None) -> models.ScheduleView:
        """Enables a schedule."""
        return await self._call(calls.switch_schedule(schedule_id, "enable", self._settings.in_namespace(namespace)))

    async def disable_schedule(self, schedule_id: str, *, namespace: str | None = None) -> models.ScheduleView:
        """Disables a schedule. A running execution continues."""
        return await self._call(calls.switch_schedule(schedule_id, "disable", self._settings.in_namespace(namespace)))

    async def trigger_schedule(self, schedule_id: str, *, namespace: str | None = None) -> models.Triggered:
        """Starts an execution of a schedule now, whether it is enabled or not.

        `task_id` is None if the execution waits for another one.
        Raises Conflict if an execution is running and `overlap_policy` is `skip`.
        """
        return await self._call(calls.trigger_schedule(schedule_id, self._settings.in_namespace(namespace)))

    async def list_executions(
        self,
        schedule_id: str,
        *,
        namespace: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> models.ExecutionList:
        """Returns a page of a schedule's executions, newest first. limit: 1 to 100."""
        return await self._call(calls.list_executions(schedule_id, self._page(namespace, limit, offset)))

    def iter_executions(
        self, schedule_id: str, *, namespace: str | None = None, page_size: int = 100
    ) -> AsyncIterator[models.ExecutionView]:
        """Iterates over all recorded executions, newest first, page by page (1 to 100 executions each)."""
        return self._rows(
            lambda offset: self.list_executions(schedule_id, namespace=namespace, limit=page_size, offset=offset)
        )

    async def get_execution(
        self, schedule_id: str, number: int, *, namespace: str | None = None
    ) -> models.ExecutionView:
        """Returns an execution by its number, which starts at 1 for each schedule. Raises NotFound."""
        return await self._call(calls.get_execution(schedule_id, number, self._settings.in_namespace(namespace)))

    # -- the cluster

    async def list_nodes(
        self, *, eligible: bool | None = None, limit: int | None = None, offset: int | None = None
    ) -> models.NodeList:
        """Returns a page of the nodes, by name. limit: 1 to 1000. eligible: only eligible or ineligible nodes."""
        return await self._call(calls.list_nodes({"eligible": eligible, "limit": limit, "offset": offset}))

    def iter_nodes(self, *, eligible: bool | None = None, page_size: int = 1000) -> AsyncIterator[models.NodeView]:
        """Iterates over all nodes, page by page (1 to 1000 nodes each)."""
        return self._rows(lambda offset: self.list_nodes(eligible=eligible, limit=page_size, offset=offset))

    async def get_stats(self, *, namespace: str | None = None) -> models.Stats:
        """Returns the number of tasks and schedules that the caller may read."""
        return await self._call(calls.get_stats(self._settings.in_namespace(namespace)))

    # -- requests

    def _page(self, namespace: str | None, limit: int | None, offset: int | None, **more: object) -> dict[str, Any]:
        return {"namespace": self._settings.in_namespace(namespace), "limit": limit, "offset": offset, **more}

    async def _rows(self, fetch: Callable[[int], Awaitable[models.Page[Row]]]) -> AsyncIterator[Row]:
        offset = 0
        while True:
            page = await fetch(offset)
            for one in page.rows:
                yield one
            offset += len(page.rows)
            if not page.rows or offset >= page.total:
                return

    async def _call(self, call: calls.Call[calls.T]) -> calls.T:
        answer, _ = await self._exchange(call)
        return answer

    def _attempts(self, limit: float | None = None) -> Attempts:
        budget = self._settings.retry_seconds if limit is None else min(limit, self._settings.retry_seconds)
        return Attempts(self._settings.retries, budget, self._clock, self._random)

    async def _exchange(self, call: calls.Call[calls.T], limit: float | None = None) -> tuple[calls.T, httpx.Response]:
        attempts = self._attempts(limit)
        while True:
            response = None
            try:
                response = await self._send(call, limit)
                return read(call, response), response
            except PrewarmError as error:
                done = attempts.done_before(call, error)
                if done is not None and response is not None:
                    return done, response
                seconds = attempts.pause(call.safe, error)
                if seconds is None:
                    raise
            await self._sleep(seconds)

    async def _send(self, call: calls.Call[calls.T], limit: float | None) -> httpx.Response:
        request = self._request(call, self._settings.timeout if limit is None else min(limit, self._settings.timeout))
        try:
            return await self._http.send(request)
        except httpx.HTTPError as error:
            raise unanswered(error, request.url) from error

    def _request(self, call: calls.Call[calls.T], timeout: float | httpx.Timeout) -> httpx.Request:
        url, headers = self._settings.url(call), self._settings.headers(call)
        return self._http.build_request(
            call.method, url, params=call.query, headers=headers, content=call.content, timeout=timeout
        )

    async def _look(self, call: calls.Call[models.TaskView], wait: Wait) -> models.TaskView:
        try:
            task, _ = await self._exchange(call, wait.limit())
            return task
        except (TransportError, TooManyRequests, Unavailable) as error:
            late = wait.late()
            if late is None:
                raise
            raise late from error

    async def _states(self, watch: Watch) -> AsyncGenerator[models.TaskView, None]:
        timeout = httpx.Timeout(self._settings.timeout, read=max(SILENCE, self._settings.timeout))
        request = self._request(watch.call(), timeout)
        try:
            response = await self._http.send(request, stream=True)
            try:
                if not watch.is_stream(response):
                    await response.aread()
                    watch.other(response)
                    return
                async for chunk in response.aiter_bytes():
                    for one in watch.feed(chunk, response):
                        yield one
                    if watch.ended:
                        return
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise unanswered(error, request.url) from error
