"""Keyword arguments of calls. The fields with the same names in models.py document them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Union

from .models import NotifyRequest, TaskRequest


class FurtherTaskOptions(TypedDict, total=False):
    """Options of a task that are only accepted by name. None means that an option is not set."""

    batch_policy: str | None
    deadline: str | None
    image_pull_policy: str | None
    image_pull_secrets: Sequence[str] | None
    max_retries: int | None
    namespace: str | None
    nodes: int | str | None
    notify: Sequence[NotifyRequest | Mapping[str, Any]] | None
    priority: int | None
    pull_method: str | None
    retain: str | None
    retry_delay: int | None
    retry_policy: str | None
    retry_strategy: str | None
    service_account_name: str | None
    strategy: str | None
    success_threshold: str | None
    timeout: str | None
    tolerations: Sequence[Mapping[str, Any]] | None
    ttl_seconds_after_finished: int | None
    webhook_url: str | None
    worker: str | None


class TaskOptions(FurtherTaskOptions, total=False):
    """Options of a task: the fields of `TaskRequest` except images. None means that an option is not set."""

    batch_size: int | str | None
    node_selector: Mapping[str, str] | None


class ScheduleOptions(TypedDict, total=False):
    """Options of a schedule: the fields of `ScheduleRequest`. None means that an option is not set."""

    cron_expr: str | None
    task_config: TaskRequest | Mapping[str, Any] | None
    description: str | None
    enabled: bool | None
    history_limit: int | None
    name: str | None
    namespace: str | None
    overlap_policy: str | None
    starting_deadline_seconds: int | None
    timeout_seconds: int | None
    timezone: str | None


Images = Union[Sequence[str], TaskRequest, Mapping[str, Any]]
"""List of image references, or a complete request."""
