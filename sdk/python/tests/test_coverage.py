"""Tests that clients and models match the OpenAPI document."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from prewarmer import PrewarmError, enums, models, options
from prewarmer._model import Model

from .conftest import ROOT
from .harness import Handle

DOCUMENT = Path(os.environ.get("PREWARMER_OPENAPI") or ROOT / "../../deploy/openapi.json")
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "create_task": ((["nginx:1.27"],), {}),
    "get_task": (("x",), {}),
    "list_tasks": (
        (),
        {"status": "running", "search": "nginx", "namespace": "shop", "limit": 1, "offset": 2, "until": "1~a~b"},
    ),
    "cancel_task": (("x",), {}),
    "retry_task": (("x",), {}),
    "watch_task": (("x",), {}),
    "extract": (({"kind": "Pod"},), {}),
    "create_schedule": ((), {"cron_expr": "@daily"}),
    "list_schedules": ((), {"enabled": True, "namespace": "shop", "limit": 1, "offset": 2}),
    "get_schedule": (("x",), {}),
    "replace_schedule": (("x",), {"cron_expr": "@daily"}),
    "delete_schedule": (("x",), {}),
    "enable_schedule": (("x",), {}),
    "disable_schedule": (("x",), {}),
    "trigger_schedule": (("x",), {}),
    "list_executions": (("x",), {"namespace": "shop", "limit": 1, "offset": 2}),
    "get_execution": (("x", 7), {}),
    "list_nodes": ((), {"eligible": False, "limit": 1, "offset": 2}),
    "get_stats": ((), {"namespace": "shop"}),
}


def _document() -> dict[str, Any]:
    if not DOCUMENT.is_file():
        pytest.fail(f"no OpenAPI document at {DOCUMENT}: set PREWARMER_OPENAPI to its path")
    document: dict[str, Any] = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    paths = _document()["paths"]
    return [(verb, path, operation) for path, verbs in paths.items() for verb, operation in verbs.items()]


def _properties(schema: dict[str, Any], schemas: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Returns all and the required properties of an object, including every part of its allOf."""
    if "$ref" in schema:
        return _properties(schemas[schema["$ref"].rsplit("/", 1)[-1]], schemas)
    known, required = set(schema.get("properties", ())), set(schema.get("required", ()))
    for part in schema.get("allOf", ()):
        more, needed = _properties(part, schemas)
        known |= more
        required |= needed
    return known, required


def test_every_operation_is_called_here() -> None:
    assert {operation["operationId"] for _, _, operation in _operations()} == set(CALLS)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_operation_has_its_method(kind: str) -> None:
    for verb, path, operation in _operations():
        name = operation["operationId"]
        values, named = CALLS[name]
        handle = Handle(kind, lambda request: httpx.Response(418, json={"error": "teapot"}))
        with pytest.raises(PrewarmError, match="teapot"):
            handle.call(name, *values, **named)
        request = handle.requests[0]
        assert request.method == verb.upper(), name
        assert re.fullmatch(re.sub(r"\{\w+}", "[x7]", path), request.url.path), name
        if verb == "get" and "{" not in path:
            known = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
            assert set(request.url.params) == known, name


def test_methods_return_the_models_of_the_document() -> None:
    for _, _, operation in _operations():
        name = operation["operationId"]
        answer = next(value for code, value in operation["responses"].items() if code in ("200", "201", "202"))
        schema = next(iter(answer["content"].values()))["schema"]["$ref"].rsplit("/", 1)[-1]
        expected = "Generator[models.TaskView, None, None]" if schema == "TaskEvent" else f"models.{schema}"
        assert getattr(Handle("sync", None).client, name).__annotations__["return"] == expected, name


def test_every_schema_has_its_model() -> None:
    schemas = _document()["components"]["schemas"]
    for name, schema in schemas.items():
        if "enum" in schema:
            assert [word.value for word in getattr(enums, name)] == schema["enum"], name
            continue
        model: type[Model] = getattr(models, name)
        known, required = _properties(schema, schemas)
        fields = {field.alias: field for field in model.model_fields.values()}
        assert set(fields) == known, name
        assert {alias for alias, field in fields.items() if field.is_required()} == required, name


def test_properties_include_parts_of_all_of() -> None:
    schemas = _document()["components"]["schemas"]
    known, required = _properties(schemas["ExtractedView"], schemas)
    assert known > {"workload", "placement", "nodeCount"}
    assert required >= {"workload", "placement"}
    nested = {"allOf": [{"allOf": [{"$ref": "#/components/schemas/X"}]}, {"required": ["b"], "properties": {"b": {}}}]}
    assert _properties(nested, {"X": {"properties": {"a": {}}, "required": ["a"]}}) == ({"a", "b"}, {"a", "b"})


def test_models_are_schemas_of_the_document() -> None:
    schemas = set(_document()["components"]["schemas"])
    here = {name for name, one in vars(models).items() if isinstance(one, type) and issubclass(one, Model)}
    # pydantic adds Page[TaskView] and similar classes to the module.
    here = {name for name in here if not name.startswith("Page")}
    assert here - {"Model"} == {name for name in schemas if not hasattr(enums, name)}


def test_options_are_the_fields_of_requests() -> None:
    assert set(options.TaskOptions.__annotations__) == set(models.TaskRequest.model_fields) - {"images"}
    assert set(options.ScheduleOptions.__annotations__) == set(models.ScheduleRequest.model_fields)
