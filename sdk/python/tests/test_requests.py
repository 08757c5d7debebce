from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest

from prewarmer import NotifyRequest, PullPolicy, ScheduleRequest, ScheduleView, TaskRequest, __version__

from .harness import CREATED, EXTRACTED, SCHEDULE, Handle, always

OPTIONS: dict[str, Any] = {
    "batch_size": 10,
    "node_selector": {"type": "fake"},
    "priority": 7,
    "max_retries": 2,
    "retry_strategy": "exponential",
    "retry_delay": 5,
    "webhook_url": "https://hooks.example.com/x",
    "namespace": "shop",
    "tolerations": [{"key": "gpu", "operator": "Exists", "value": None}],
    "nodes": "50%",
    "batch_policy": "Rolling",
    "timeout": "10m",
    "deadline": "1h",
    "success_threshold": "95%",
    "image_pull_secrets": ("registry",),
    "service_account_name": "puller",
    "image_pull_policy": PullPolicy.ALWAYS,
    "retain": "30m",
    "worker": "Pod",
    "pull_method": "Helper",
    "ttl_seconds_after_finished": 60,
    "notify": [NotifyRequest(url="https://hooks.example.com/y", format="slack")],
}
JSON = {
    "images": ["nginx:1.27"],
    "batchSize": 10,
    "nodeSelector": {"type": "fake"},
    "priority": 7,
    "maxRetries": 2,
    "retryStrategy": "exponential",
    "retryDelay": 5,
    "webhookUrl": "https://hooks.example.com/x",
    "namespace": "shop",
    "tolerations": [{"key": "gpu", "operator": "Exists", "value": None}],
    "nodes": "50%",
    "batchPolicy": "Rolling",
    "timeout": "10m",
    "deadline": "1h",
    "successThreshold": "95%",
    "imagePullSecrets": ["registry"],
    "serviceAccountName": "puller",
    "imagePullPolicy": "Always",
    "retain": "30m",
    "worker": "Pod",
    "pullMethod": "Helper",
    "ttlSecondsAfterFinished": 60,
    "notify": [{"url": "https://hooks.example.com/y", "format": "slack"}],
}


def sent(method: str, *values: Any, **options: Any) -> Any:
    handle = Handle("sync", always(200, SCHEDULE if "schedule" in method else CREATED), namespace=None)
    handle.call(method, *values, **options)
    return handle.bodies()[0]


def test_every_option() -> None:
    assert sent("create_task", images=["nginx:1.27"], **OPTIONS) == JSON


def test_complete_request() -> None:
    assert sent("create_task", TaskRequest(images=["nginx:1.27"], **OPTIONS)) == JSON


def test_a_dict_by_either_names() -> None:
    assert sent("create_task", JSON) == JSON
    assert sent("create_task", {"images": ("nginx:1.27",), **OPTIONS}) == JSON


def test_options_override_a_request() -> None:
    request = TaskRequest(images=["nginx:1.27"], priority=3, batch_size=5)
    assert sent("create_task", request, priority=9) == {"images": ["nginx:1.27"], "priority": 9, "batchSize": 5}


def test_none_is_not_sent() -> None:
    assert sent("create_task", ["nginx:1.27"], batch_size=None, timeout=None) == {"images": ["nginx:1.27"]}
    assert sent("create_task", TaskRequest(images=["a"], priority=None)) == {"images": ["a"]}


def test_zero_and_false_are_sent() -> None:
    assert sent("create_task", ["a"], max_retries=0) == {"images": ["a"], "maxRetries": 0}
    assert sent("create_schedule", cron_expr="@daily", enabled=False) == {"cronExpr": "@daily", "enabled": False}


def test_unknown_fields_are_sent() -> None:
    assert sent("create_task", {"images": ["a"], "newField": 1}) == {"images": ["a"], "newField": 1}


def test_an_unknown_option() -> None:
    with pytest.raises(TypeError, match="unknown option 'batchsize'; valid options are batch_policy, batch_size"):
        sent("create_task", ["a"], batchsize=1)


def test_images_must_be_a_list() -> None:
    with pytest.raises(TypeError, match="list of references"):
        sent("create_task", "nginx:1.27")


@pytest.mark.parametrize(("own", "used"), [(None, "of-client"), ("of-call", "of-call")])
def test_namespace_of_a_created_task(own: str | None, used: str) -> None:
    handle = Handle("sync", always(201, CREATED), namespace="of-client")
    handle.call("create_task", ["a"], namespace=own)
    assert handle.bodies()[0]["namespace"] == used
    handle = Handle("sync", always(201, SCHEDULE), namespace="of-client")
    handle.call("create_schedule", cron_expr="@daily", namespace=own)
    assert handle.bodies()[0]["namespace"] == used


@pytest.mark.parametrize(("own", "sent"), [(None, "of-client"), ("of-call", "of-call"), ("", "")])
def test_a_retry_has_no_body(own: str | None, sent: str) -> None:
    handle = Handle("sync", always(201, CREATED), namespace="of-client")
    assert handle.call("retry_task", "task-0", namespace=own).task_id == CREATED["taskId"]
    (request,) = handle.requests
    assert (request.method, request.url.path, request.content) == ("POST", "/api/v1/tasks/task-0/retry", b"")
    assert request.url.params.get("namespace") == sent


def test_a_schedule_of_options() -> None:
    body = sent("create_schedule", cron_expr="@daily", task_config={"images": ["a"], "batch_size": 3}, history_limit=2)
    assert body == {"cronExpr": "@daily", "taskConfig": {"images": ["a"], "batchSize": 3}, "historyLimit": 2}


def test_complete_schedule_request() -> None:
    request = ScheduleRequest(cron_expr="@daily", task_config=TaskRequest(images=["a"], batch_size=3))
    assert sent("create_schedule", request) == {"cronExpr": "@daily", "taskConfig": {"images": ["a"], "batchSize": 3}}


def test_positional_options() -> None:
    body = sent("create_task", ["a"], 20, {"disk": "ssd"})
    assert body == {"images": ["a"], "batchSize": 20, "nodeSelector": {"disk": "ssd"}}
    handle = Handle("sync", always(200, {"tasks": [], "total": 0, "limit": 20, "offset": 0}))
    handle.call("list_tasks", "running", 20)
    assert dict(handle.requests[0].url.params) == {"status": "running", "limit": "20"}


def test_partial_change_of_a_schedule() -> None:
    assert sent("replace_schedule", "schedule-1", enabled=False, description=None) == {"enabled": False}
    # None in a dict is null, which sets the default value; in a view it is the value of the server.
    body = sent("replace_schedule", "schedule-1", {"description": None, "task_config": {"node_selector": None}})
    assert body == {"description": None, "taskConfig": {"nodeSelector": None}}


def test_schedule_view_as_request() -> None:
    view = ScheduleView.model_validate({**SCHEDULE, "shownByNewServers": 1})
    assert sent("replace_schedule", "schedule-1", view, cron_expr="0 3 * * *") == {
        "namespace": "shop",
        "name": "nightly",
        "description": "",
        "cronExpr": "0 3 * * *",
        "timezone": "UTC",
        "enabled": True,
        "taskConfig": {"images": ["nginx:1.27"], "batchSize": 10, "namespace": "shop"},
        "overlapPolicy": "skip",
        "historyLimit": 10,
    }


@pytest.mark.parametrize("manifest", ["kind: Pod\nname: \N{SNOWMAN}", "kind: Pod\nname: \N{SNOWMAN}".encode()])
def test_a_manifest_of_yaml(manifest: str | bytes) -> None:
    handle = Handle("sync", always(200, {"workloads": [EXTRACTED], "skipped": []}))
    answer = handle.call("extract", manifest)
    assert handle.requests[0].headers["Content-Type"] == "application/yaml"
    assert handle.requests[0].content.decode() == "kind: Pod\nname: \N{SNOWMAN}"
    assert answer.workloads[0].node_count == answer.workloads[0]["nodeCount"] == 30


def test_a_manifest_of_json() -> None:
    handle = Handle("sync", always(200, {"workloads": [], "skipped": []}))
    handle.call("extract", {"kind": "Pod"})
    assert handle.requests[0].headers["Content-Type"] == "application/json"
    assert json.loads(handle.requests[0].content) == {"kind": "Pod"}


def test_values_that_json_cannot_represent() -> None:
    with pytest.raises(TypeError, match="object cannot be encoded as JSON"):
        sent("create_task", ["a"], node_selector={"a": object()})


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize("method", ["get_task", "cancel_task", "retry_task", "watch_task", "delete_schedule"])
def test_names_that_would_change_the_path(method: str, name: str) -> None:
    handle = Handle("sync", always(200, {}))
    with pytest.raises(ValueError, match="not a valid name"):
        handle.call(method, name)
    assert handle.requests == []


def test_a_name_is_one_part_of_the_path() -> None:
    handle = Handle("sync", always(404, {"error": "no"}), retries=0)
    with pytest.raises(Exception, match="404"):
        handle.call("get_task", "a/../b?x=1#y z%2f")
    assert handle.requests[0].url.raw_path == b"/api/v1/tasks/a%2F..%2Fb%3Fx%3D1%23y%20z%252f"


def test_booleans_in_queries() -> None:
    handle = Handle("sync", always(200, {"nodes": [], "total": 0, "limit": 1, "offset": 0}))
    handle.call("list_nodes", eligible=True, limit=1)
    assert handle.requests[0].url.query == b"eligible=true&limit=1"


def test_request_headers() -> None:
    handle = Handle("sync", always(201, CREATED))
    handle.call("create_task", ["a"])
    headers = handle.requests[0].headers
    assert headers["User-Agent"] == f"prewarmer-python/{__version__}"
    assert version("prewarmer") == __version__, "pyproject.toml and _version.py differ"
    assert headers["Accept"] == headers["Content-Type"] == "application/json"
