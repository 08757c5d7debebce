"""Requests of all operations, for both clients."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, TypeVar
from urllib.parse import quote

from . import models
from ._model import Model
from .enums import ChangeStatus, Status
from .errors import ApiError
from .options import Images, ScheduleOptions, TaskOptions

T = TypeVar("T", bound=Model)
Query = Mapping[str, object]

_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Call(Generic[T]):
    """Call of an operation of the API."""

    method: str
    path: str
    answer: type[T]
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    # True if the call is idempotent.
    safe: bool = True
    # Returns the result for the error of a retry, if an earlier attempt without a response was
    # processed.
    done_before: Callable[[ApiError], T | None] | None = None


def create_task(
    images: Images, options: TaskOptions, namespace: str | None, idempotency_key: str | None
) -> Call[models.TaskCreated]:
    body = _task(images, options)
    if namespace and not body.get("namespace"):
        body["namespace"] = namespace
    headers = {**_JSON, **_idempotent(idempotency_key)}
    return Call("POST", "/tasks", models.TaskCreated, headers=headers, content=_encoded(body))


def get_task(task_id: str, namespace: str | None) -> Call[models.TaskView]:
    return Call("GET", _path("tasks", task_id), models.TaskView, _query(namespace=namespace))


def list_tasks(query: Query) -> Call[models.TaskList]:
    return Call("GET", "/tasks", models.TaskList, _query(**query))


def cancel_task(task_id: str, namespace: str | None) -> Call[models.TaskCancelled]:
    def cancelled_before(error: ApiError) -> models.TaskCancelled | None:
        if error.status_code != 409 or error.status != Status.CANCELLED:
            return None
        return models.TaskCancelled(task_id=task_id, status=Status.CANCELLED, message="The task was cancelled")

    path = _path("tasks", task_id)
    query = _query(namespace=namespace)
    return Call("DELETE", path, models.TaskCancelled, query, done_before=cancelled_before)


def retry_task(task_id: str, namespace: str | None, idempotency_key: str | None) -> Call[models.TaskCreated]:
    headers = _idempotent(idempotency_key)
    return Call("POST", _path("tasks", task_id, "retry"), models.TaskCreated, _query(namespace=namespace), headers)


def watch_task(task_id: str, namespace: str | None) -> Call[models.TaskView]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    return Call("GET", _path("tasks", task_id, "watch"), models.TaskView, _query(namespace=namespace), headers)


def extract(manifest: str | bytes | Mapping[str, Any]) -> Call[models.ExtractAnswer]:
    if isinstance(manifest, Mapping):
        return Call("POST", "/tasks:extract", models.ExtractAnswer, headers=_JSON, content=_encoded(manifest))
    content = manifest.encode() if isinstance(manifest, str) else manifest
    headers = {"Content-Type": "application/yaml"}
    return Call("POST", "/tasks:extract", models.ExtractAnswer, headers=headers, content=content)


def create_schedule(
    request: Mapping[str, Any] | None, options: ScheduleOptions, namespace: str | None
) -> Call[models.ScheduleView]:
    body = _schedule(request, options)
    if namespace and not body.get("namespace"):
        body["namespace"] = namespace
    content = _encoded(body)
    return Call("POST", "/scheduled-tasks", models.ScheduleView, headers=_JSON, content=content, safe=False)


def replace_schedule(
    schedule_id: str, request: Mapping[str, Any] | None, options: ScheduleOptions, namespace: str | None
) -> Call[models.ScheduleView]:
    body = _schedule(request, options, keeps_null=True)
    query = _query(namespace=body.get("namespace") or namespace)
    return Call("PUT", _path("scheduled-tasks", schedule_id), models.ScheduleView, query, _JSON, _encoded(body))


def list_schedules(query: Query) -> Call[models.ScheduleList]:
    return Call("GET", "/scheduled-tasks", models.ScheduleList, _query(**query))


def get_schedule(schedule_id: str, namespace: str | None) -> Call[models.ScheduleView]:
    return Call("GET", _path("scheduled-tasks", schedule_id), models.ScheduleView, _query(namespace=namespace))


def delete_schedule(schedule_id: str, namespace: str | None) -> Call[models.ScheduleDone]:
    def deleted_before(error: ApiError) -> models.ScheduleDone | None:
        if error.status_code != 404:
            return None
        message = "The schedule was deleted"
        done = ChangeStatus.SUCCESS
        return models.ScheduleDone(id=schedule_id, task_id=schedule_id, status=done, message=message)

    path = _path("scheduled-tasks", schedule_id)
    return Call("DELETE", path, models.ScheduleDone, _query(namespace=namespace), done_before=deleted_before)


def switch_schedule(schedule_id: str, action: str, namespace: str | None) -> Call[models.ScheduleView]:
    return Call("PUT", _path("scheduled-tasks", schedule_id, action), models.ScheduleView, _query(namespace=namespace))


def trigger_schedule(schedule_id: str, namespace: str | None) -> Call[models.Triggered]:
    path = _path("scheduled-tasks", schedule_id, "trigger")
    return Call("POST", path, models.Triggered, _query(namespace=namespace), safe=False)


def list_executions(schedule_id: str, query: Query) -> Call[models.ExecutionList]:
    return Call("GET", _path("scheduled-tasks", schedule_id, "executions"), models.ExecutionList, _query(**query))


def get_execution(schedule_id: str, number: int, namespace: str | None) -> Call[models.ExecutionView]:
    path = _path("scheduled-tasks", schedule_id, "executions", str(number))
    return Call("GET", path, models.ExecutionView, _query(namespace=namespace))


def list_nodes(query: Query) -> Call[models.NodeList]:
    return Call("GET", "/nodes", models.NodeList, _query(**query))


def get_stats(namespace: str | None) -> Call[models.Stats]:
    return Call("GET", "/stats", models.Stats, _query(namespace=namespace))


def _idempotent(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def _path(*parts: str) -> str:
    for part in parts:
        # Such a part would change the path, and possibly the operation.
        if not part.strip("."):
            raise ValueError(f"{part!r} is not a valid name of a task or schedule")
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _query(**values: object) -> dict[str, str]:
    return {name: _word(value) for name, value in values.items() if value is not None}


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _task(images: Images, options: TaskOptions) -> dict[str, Any]:
    if isinstance(images, (str, bytes)):
        raise TypeError("images must be a list of references, not a string")
    body = _named(models.TaskRequest, images) if isinstance(images, Mapping) else {"images": list(images)}
    return {**body, **_given(models.TaskRequest, options)}


def _schedule(
    request: Mapping[str, Any] | None, options: ScheduleOptions, *, keeps_null: bool = False
) -> dict[str, Any]:
    named = _named(models.ScheduleRequest, request or {}, keeps_null=keeps_null)
    body = {**named, **_given(models.ScheduleRequest, options)}
    if isinstance(request, models.ScheduleView):
        # Fields that only the server sets, such as the time of the next execution, are not sent.
        known = _aliases(models.ScheduleRequest).values()
        body = {name: value for name, value in body.items() if name in known}
    if isinstance(body.get("taskConfig"), Mapping):
        body["taskConfig"] = _named(models.TaskRequest, body["taskConfig"], keeps_null=keeps_null)
    return body


def _given(model: type[Model], options: Mapping[str, object]) -> dict[str, Any]:
    aliases = _aliases(model)
    for name in options:
        if name not in aliases:
            raise TypeError(f"unknown option {name!r}; valid options are {', '.join(sorted(aliases))}")
    return {aliases[name]: value for name, value in options.items() if value is not None}


def _named(model: type[Model], body: Mapping[str, Any], *, keeps_null: bool = False) -> dict[str, Any]:
    """Returns a body with JSON names. Unknown names are kept: a newer server may know them, or reports them.

    keeps_null: keep None in a dict, which is null in JSON.
    """
    aliases = _aliases(model)
    keeps_null = keeps_null and not isinstance(body, Model)
    return {aliases.get(name, name): value for name, value in body.items() if keeps_null or value is not None}


def _aliases(model: type[Model]) -> dict[str, str]:
    return {name: info.alias or name for name, info in model.model_fields.items()}


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, default=_plain, ensure_ascii=False, allow_nan=False).encode()


def _plain(value: object) -> object:
    if isinstance(value, Model):
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")
