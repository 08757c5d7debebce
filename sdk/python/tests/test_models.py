from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from datetime import datetime, timezone

import pytest
from pydantic import ValidationError

from prewarmer import ExecutionStatus, ExtractedView, InvalidAnswer, Status, TaskRequest, TaskView

from .harness import EXTRACTED, Handle, always, failure, task

VIEW = TaskView.model_validate(task(failedNodeDetails=[failure("node-7", "ImageNotFound")]))


def test_a_model_is_a_mapping_by_json_names() -> None:
    assert isinstance(VIEW, Mapping)
    assert VIEW["taskId"] == VIEW.task_id == "task-1"
    assert VIEW["progress"]["percentage"] == VIEW.progress.percentage == 25.0
    assert VIEW["failedNodeDetails"][0]["nodeName"] == VIEW.failed_node_details[0].node_name == "node-7"
    assert VIEW.get("failedNodeDetails") == [failure("node-7", "ImageNotFound")]
    assert VIEW.get("noSuchThing", 3) == 3
    assert "status" in VIEW
    assert "task_id" not in VIEW


def test_mapping_contains_only_sent_fields() -> None:
    sent = task(failedNodeDetails=[failure("node-7", "ImageNotFound")])
    assert dict(VIEW) == dict(VIEW.items()) == VIEW.to_dict() == {**VIEW} == sent
    assert set(VIEW.keys()) == set(VIEW) == set(sent)
    assert len(VIEW) == len(list(VIEW.values())) == len(sent)
    assert "finishedAt" in VIEW
    assert "startedAt" not in VIEW
    with pytest.raises(KeyError, match="startedAt"):
        VIEW["startedAt"]
    assert VIEW.started_at is None


def test_mapping_values_are_plain_json() -> None:
    assert json.loads(json.dumps(dict(VIEW))) == json.loads(json.dumps(VIEW.to_dict())) == VIEW.to_dict()
    assert type(VIEW["progress"]) is dict
    assert type(VIEW["status"]) is str
    assert VIEW["createdAt"] == "2026-11-21T21:29:50Z"


def test_models_are_read_only() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        VIEW.status = Status.FAILED
    with pytest.raises(TypeError, match="item assignment"):
        VIEW["status"] = "failed"  # type: ignore[index]
    VIEW["progress"]["percentage"] = 99
    assert VIEW.progress.percentage == 25.0


def test_times_are_aware() -> None:
    assert VIEW.created_at == datetime(2026, 11, 21, 21, 29, 50, tzinfo=timezone.utc)


def test_unknown_fields_are_kept() -> None:
    sent = task(status="paused", retryStrategy="fibonacci", newField={"a": [1, None]})
    sent["progress"]["eta"] = 7
    view = TaskView.model_validate_json(json.dumps(sent))
    assert view.status == "paused"
    assert not view.status.ended
    assert view["newField"] == {"a": [1, None]}
    assert view["progress"]["eta"] == 7
    assert view.to_dict() == dict(view) == sent


@pytest.mark.parametrize("word", ["completed", "paused"])
def test_enumerations_equal_their_text(word: str) -> None:
    status = Status(word)
    assert status == word
    assert word == status
    assert str(status) == f"{status}" == "%s" % status == word  # noqa: UP031  # tests each way of formatting
    assert f"{status:>12}" == f"{word:>12}"
    assert status in ("completed", "paused")
    assert {word: 1}[status] == 1
    assert json.dumps(status) == f'"{word}"'
    assert pickle.loads(pickle.dumps(status)) == copy.deepcopy(status) == word
    assert isinstance(status, Status)
    assert status.value == word


def test_unknown_values_are_not_cached() -> None:
    assert [ExecutionStatus("odd"), len(ExecutionStatus)] == ["odd", 5]


@pytest.mark.parametrize("value", [None, 3, ["running"]])
def test_invalid_enumeration_values(value: object) -> None:
    with pytest.raises(ValueError, match="is not a valid Status"):
        Status(value)


@pytest.mark.parametrize(
    ("status", "ended"),
    [("pending", False), ("running", False), ("completed", True), ("failed", True), ("cancelled", True)],
)
def test_ended_statuses(status: str, ended: bool) -> None:
    assert Status(status).ended is ended


def test_equality_and_copies() -> None:
    assert TaskView.model_validate(task()) == TaskView.model_validate(task())
    assert TaskView.model_validate(task()) != TaskView.model_validate(task(completed=2))
    assert copy.deepcopy(VIEW) == pickle.loads(pickle.dumps(VIEW)) == VIEW


def test_a_request_by_either_names() -> None:
    by_python = TaskRequest(images=["a"], batch_size="5%")
    by_json = TaskRequest.model_validate({"images": ["a"], "batchSize": "5%"})
    assert by_python == by_json
    assert dict(by_python) == {"images": ["a"], "batchSize": "5%"}


def test_repr_shows_the_fields() -> None:
    assert "task_id='task-1'" in repr(VIEW)


def test_extracted_model() -> None:
    sent = {**EXTRACTED, "shownByNewServers": {"a": 1}}
    view = ExtractedView.model_validate(sent)
    assert (view.workload, view.namespace, view.verdict, view.reason) == ("Deployment/web", "shop", "wanted", None)
    assert (view.images, view.nodes, view.node_count) == (["nginx:1.27"], "25%", 30)
    assert view.placement["nodeSelector"] == {"type": "fake"}
    assert view.credentials["serviceAccountName"] == "puller"
    assert view.warnings == EXTRACTED["warnings"]
    assert view["shownByNewServers"] == {"a": 1}
    assert view.to_dict() == dict(view) == sent


@pytest.mark.parametrize(("nodes", "read"), [(100, 100), ("all", "all"), ("100", "100")])
def test_nodes_are_a_number_or_a_text(nodes: object, read: object) -> None:
    assert ExtractedView.model_validate({**EXTRACTED, "nodes": nodes}).nodes == read


@pytest.mark.parametrize("name", ["workload", "namespace", "verdict", "images", "placement", "credentials"])
def test_required_fields_of_extracted(name: str) -> None:
    body = {key: value for key, value in EXTRACTED.items() if key != name}
    with pytest.raises(InvalidAnswer, match=rf"workloads\.0\.{name}: Field required"):
        Handle("sync", always(200, {"workloads": [body], "skipped": []})).call("extract", "kind: Pod")
