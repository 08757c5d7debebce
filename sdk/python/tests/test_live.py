"""Tests against the server in PREWARMER_URL and PREWARMER_TOKEN, whose cluster has fake nodes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from prewarmer import (
    AsyncPrewarmClient,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    PrewarmClient,
    TaskFailed,
    Unauthorized,
    WaitTimeout,
)

from .harness import Live

FAKE = {"type": "fake"}
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, annotations: {prewarm.io/nodes: "50%", prewarm.io/node: x}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {type: fake}
      serviceAccountName: puller
      containers: [{name: web, image: "nginx:1.27"}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
"""


def image(words: str = "app") -> str:
    """Returns an image that no node has. Words such as "missing" and "slow" select the result of the pull."""
    return f"registry.example/{words}/{uuid.uuid4().hex[:12]}:1"


@pytest.fixture
def client(live: Live) -> Iterator[PrewarmClient]:
    with PrewarmClient(live.url, namespace=live.namespace) as made:
        yield made


def test_life_cycle_of_a_task(client: PrewarmClient) -> None:
    made = client.create_task([image()], node_selector=FAKE, nodes=20, batch_size=10, priority=7)
    assert (made.status, made.batch_size) == ("pending", 10)
    seen: list[float] = []
    done = client.wait_for_completion(
        made.task_id, timeout=120, poll_interval=0.2, callback=lambda one: seen.append(one["progress"]["percentage"])
    )
    assert (done.status, done.progress.completed_nodes, done.progress.percentage) == ("completed", 20, 100.0)
    assert done["taskId"] == made["taskId"]
    assert (done.priority, done.node_selector) == (7, FAKE)
    assert done.created_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.finished_at
    assert done == client.get_task(made.task_id, namespace=made.namespace)
    assert seen == sorted(seen)
    assert seen[-1] == 100.0
    with pytest.raises(Conflict) as refused:
        client.retry_task(made.task_id)
    assert refused.value.status == "completed"
    with pytest.raises(Conflict) as refused:
        client.cancel_task(made.task_id)
    assert refused.value.status == "completed"
    assert refused.value.request_id


def test_watch_of_a_task(client: PrewarmClient) -> None:
    made = client.create_task([image()], node_selector=FAKE, nodes=6, batch_size=3)
    states = list(client.watch_task(made.task_id))
    assert [one.status.ended for one in states] == [False] * (len(states) - 1) + [True]
    assert states[-1].progress.completed_nodes == 6
    assert [one.status for one in client.watch_task(made.task_id)] == ["completed"]


def test_failures_are_reported(client: PrewarmClient) -> None:
    made = client.create_task([image("missing")], node_selector=FAKE, nodes=3, batch_size=3)
    with pytest.raises(TaskFailed, match="ImageNotFound") as raised:
        client.wait_for_completion(made.task_id, timeout=120, poll_interval=0.2)
    assert len(raised.value.failures["ImageNotFound"]) == 3
    assert raised.value.task.progress.failed_nodes == 3
    key = uuid.uuid4().hex
    retried = client.retry_task(made.task_id, idempotency_key=key)
    assert client.retry_task(made.task_id, idempotency_key=key).task_id == retried.task_id != made.task_id
    assert retried.images == made.images
    again = client.wait_for_completion(retried.task_id, timeout=120, poll_interval=0.2, raise_on_failure=False)
    assert (again.status, again.progress.total_nodes) == ("failed", 3)


def test_wait_timeout_and_cancellation(client: PrewarmClient) -> None:
    made = client.create_task([image("slow")], node_selector=FAKE, nodes=20, batch_size=1)
    with pytest.raises(WaitTimeout) as raised:
        client.wait_for_completion(made.task_id, timeout=0.5, poll_interval=0.1)
    assert raised.value.task is not None
    assert not raised.value.task.status.ended
    assert client.cancel_task(made.task_id).status == "cancelled"
    with pytest.raises(TaskFailed, match="cancelled"):
        client.wait_for_completion(made.task_id, timeout=60, poll_interval=0.2)


def test_idempotency_key(client: PrewarmClient) -> None:
    key, what = uuid.uuid4().hex, [image()]
    first = client.create_task(what, node_selector=FAKE, nodes=1, idempotency_key=key)
    assert client.create_task(what, node_selector=FAKE, nodes=1, idempotency_key=key).task_id == first.task_id
    with pytest.raises(BadRequest) as refused:
        client.create_task([image()], node_selector=FAKE, nodes=1, idempotency_key=key)
    assert refused.value.status_code == 422


def test_every_option_is_accepted(client: PrewarmClient) -> None:
    made = client.create_task(
        [image()],
        batch_size="50%",
        batch_policy="Rolling",
        deadline="1h",
        image_pull_policy="Always",
        image_pull_secrets=[],
        max_retries=1,
        node_selector=FAKE,
        nodes=2,
        priority=9,
        pull_method="Helper",
        retain="1s",
        retry_delay=1,
        retry_strategy="exponential",
        success_threshold="50%",
        timeout="5m",
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        ttl_seconds_after_finished=3600,
        worker="Pod",
    )
    done = client.wait_for_completion(made.task_id, timeout=120, poll_interval=0.2)
    assert (done.status, done.batch_size, done.max_retries) == ("completed", "50%", 1)
    assert (done.retry_strategy, done.retry_delay, done.priority) == ("exponential", 1, 9)


def test_every_invalid_field_is_reported(client: PrewarmClient) -> None:
    with pytest.raises(BadRequest) as refused:
        client.create_task({"images": ["x y"], "noSuchField": 1}, batch_size=0, timeout="soon")
    fields = {one.field for one in refused.value.details}
    assert fields >= {"images[0]", "noSuchField", "batchSize", "timeout"}
    assert all(field in str(refused.value) for field in fields)


def test_pages_of_tasks(client: PrewarmClient) -> None:
    word = f"app/{uuid.uuid4().hex}"
    made = [client.create_task([image(word)], node_selector=FAKE, nodes=1).task_id for _ in range(3)]
    last = time.monotonic()
    for task_id in made:
        client.wait_for_completion(task_id, timeout=120, poll_interval=0.2)
    # Pages continue at the creation time of a task in seconds, so these tasks must be older than a
    # second.
    time.sleep(max(0.0, last + 1.1 - time.monotonic()))
    rows = client.iter_tasks(search=f"{word}/", page_size=1)
    first = next(rows).task_id
    later = client.create_task([image(word)], node_selector=FAKE, nodes=1).task_id
    # A new task is now before them: by offset alone one task would be listed twice.
    assert sorted([first, *(one.task_id for one in rows)]) == sorted(made)
    seen = [one.task_id for one in client.iter_tasks(page_size=20)]
    assert len(seen) == len(set(seen)), "a task came twice"
    assert {*made, later} <= set(seen)
    page = client.list_tasks(status="completed", limit=2, offset=1)
    assert (len(page.tasks), page.limit, page.offset) == (2, 2, 1)
    assert {one["status"] for one in page["tasks"]} == {"completed"}


def test_a_search(client: PrewarmClient) -> None:
    what = image()
    made = client.create_task([what], node_selector=FAKE, nodes=1).task_id
    for search in (what, what.removeprefix("registry.example/"), made):
        page = client.list_tasks(search=search)
        assert (page.total, [one.task_id for one in page.tasks]) == (1, [made])
    for search in (f"{what}2", "no & such=task+%"):
        assert client.list_tasks(search=search).total == 0
    with pytest.raises(BadRequest) as refused:
        client.list_tasks(search="x" * 201)
    assert [one.field for one in refused.value.details] == ["search"]


def test_extract_from_a_manifest(client: PrewarmClient) -> None:
    answer = client.extract(MANIFEST)
    (web,) = answer.workloads
    assert (web.workload, web.namespace, web.verdict, web.reason) == ("Deployment/web", "shop", "wanted", None)
    assert (web.images, web["images"], web.nodes) == (["nginx:1.27"], ["nginx:1.27"], "50%")
    assert (web.placement, web.credentials) == ({"nodeSelector": FAKE}, {"serviceAccountName": "puller"})
    assert [one.split(":")[0] for one in web.warnings or []] == ["prewarm.io/node"]
    assert web.node_count
    assert len(answer.skipped) == 1
    every = client.extract(MANIFEST.replace("50%", "all")).workloads[0]
    assert every.node_names
    assert len(every.node_names) == min(100, every.node_count or 0)
    out = client.extract(MANIFEST.replace('prewarm.io/nodes: "50%"', 'prewarm.io/enabled: "false"')).workloads[0]
    assert (out.verdict, out.images, out.node_count) == ("opted_out", [], None)


def test_life_cycle_of_a_schedule(client: PrewarmClient) -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    work = {"images": [image()], "node_selector": FAKE, "nodes": 2}
    made = client.create_schedule(cron_expr="30 2 * * *", name=name, task_config=work, timezone="Europe/Berlin")
    try:
        assert made.next_execution_at is not None
        assert client.get_schedule(made.id) == made
        assert made.id in [one.id for one in client.iter_schedules(page_size=1)]
        disabled = client.disable_schedule(made.id)
        assert (disabled.enabled, disabled.task_id, disabled.status) == (False, made.id, "success")
        assert made.id not in [one.id for one in client.iter_schedules(enabled=True)]
        assert client.enable_schedule(made.id).enabled
        changed = client.replace_schedule(made.id, client.get_schedule(made.id), cron_expr="0 3 * * *")
        assert (changed.cron_expr, changed.timezone, changed.name) == ("0 3 * * *", "Europe/Berlin", name)
        changed = client.replace_schedule(made.id, {"timezone": None}, task_config={"batch_size": 2})
        assert (changed.cron_expr, changed.timezone, changed.name) == ("0 3 * * *", "UTC", name)
        assert (changed.task_config.batch_size, changed.task_config.node_selector) == (2, FAKE)
        run = client.trigger_schedule(made.id)
        assert run.status == "success"
        assert run.task_id
        assert client.wait_for_completion(run.task_id, timeout=120, poll_interval=0.2).status == "completed"
        # The leader records the execution in the status of the schedule shortly after the creation
        # of its task.
        begun = time.monotonic()
        while not (executions := list(client.iter_executions(made.id))) and time.monotonic() < begun + 60:
            time.sleep(0.2)
        (execution,) = executions
        assert (execution.id, execution.trigger, execution.task_id) == (1, "manual", run.task_id)
        assert client.get_execution(made.id, 1).triggered_at == execution.triggered_at
        assert client.list_executions(made.id, limit=1).total == 1
    finally:
        gone = client.delete_schedule(made.id)
        assert (gone.id, gone.task_id, gone.status) == (made.id, made.id, "success")
    with pytest.raises(NotFound):
        client.get_schedule(made.id)


def test_the_cluster(client: PrewarmClient) -> None:
    total = client.list_nodes(limit=1).total
    names = [one.name for one in client.iter_nodes(page_size=50)]
    assert (len(names), names) == (total, sorted(set(names)))
    assert any(one.labels.get("type") == "fake" for one in client.iter_nodes(eligible=True))
    stats = client.get_stats()
    assert sum(stats.tasks.values()) == stats.total_tasks


def test_invalid_token(live: Live) -> None:
    with PrewarmClient(live.url, "prw_nobody_0000") as client, pytest.raises(Unauthorized):
        client.get_stats()


def test_read_only_token(live: Live, read_token: str) -> None:
    with PrewarmClient(live.url, read_token, namespace=live.namespace) as client:
        assert client.list_tasks(limit=1).limit == 1
        with pytest.raises(Forbidden):
            client.create_task([image()], node_selector=FAKE)


def test_not_found(client: PrewarmClient) -> None:
    calls: list[Any] = [client.get_task, client.cancel_task, client.retry_task]
    calls.append(lambda name: next(client.watch_task(name)))
    for call in calls:
        with pytest.raises(NotFound):
            call("no-such-task")


def test_the_asynchronous_client(live: Live) -> None:
    async def work() -> None:
        async with AsyncPrewarmClient(live.url, namespace=live.namespace) as client:
            tasks = [client.create_task([image()], node_selector=FAKE, nodes=3) for _ in range(3)]
            made = await asyncio.gather(*tasks)
            states = [one async for one in client.watch_task(made[0].task_id)]
            assert states[-1].status == "completed"
            waits = [client.wait_for_completion(one.task_id, timeout=120, poll_interval=0.2) for one in made]
            assert [one.progress.completed_nodes for one in await asyncio.gather(*waits)] == [3, 3, 3]
            seen = [one.task_id async for one in client.iter_tasks(page_size=20)]
            assert {one.task_id for one in made} <= set(seen)
            found = [one.task_id async for one in client.iter_tasks(search=made[1].task_id)]
            assert found == [made[1].task_id]
            assert (await client.list_tasks(search=made[2].images[0])).total == 1
            assert len([one async for one in client.iter_nodes()]) > 0
            with pytest.raises(Conflict):
                await client.cancel_task(made[0].task_id)
            with pytest.raises(Conflict):
                await client.retry_task(made[0].task_id)

    asyncio.run(work())
