"""Requests and responses of the API, with the names of its OpenAPI document.

Attributes are in snake_case; keys (`task["taskId"]`) are the JSON names. Times are aware datetimes as
attributes, and the RFC 3339 text of the server as values of keys.
"""

# Without `from __future__ import annotations`, because pydantic evaluates annotations: Python 3.9
# requires the old syntax.
from datetime import datetime
from typing import Any, Generic, Optional, TypeVar, Union

from pydantic import Field

from ._model import Model
from .enums import (
    BatchPolicy,
    ChangeStatus,
    ExecutionStatus,
    FailurePolicy,
    Overlap,
    PullMethod,
    PullPolicy,
    RetryGrowth,
    Status,
    WorkerKind,
)

Row = TypeVar("Row")
"""Type of the items of a page."""


class Page(Model, Generic[Row]):
    """Page of a list of tasks."""

    total: int
    """Number of matching tasks in all pages."""
    limit: int
    """Maximum number of items in a page."""
    offset: int
    """Number of items before this page."""

    @property
    def rows(self) -> list[Row]:
        """Items of the page, by the same name for every list."""
        raise NotImplementedError


class Detail(Model):
    """Problem of one field."""

    field: str
    """Path of the field, such as `images[1]`; empty for the entire body."""
    message: str
    """Problem, and the value that is expected."""
    pointer: Optional[str] = None
    """JSON pointer (RFC 6901) to the field in the body, such as `/images/1`; None for a parameter
    or a header."""


class ErrorBody(Model):
    """Body of an error response."""

    error: str
    """Problem, and what to do about it."""
    details: list[Detail] = Field(default_factory=list)
    """Every invalid field."""
    status: Optional[str] = None
    """Current status of the object, when that status conflicts with the request."""
    task_id: Optional[str] = None
    """Name of the requested task or schedule."""


class SecretKeyReference(Model):
    """Key of a Secret in the task's namespace."""

    key: str
    """Key in the Secret's data."""
    name: str
    """Name of the Secret."""


class UrlSource(Model):
    """Source of a URL, read when the URL is used."""

    secret_key_ref: SecretKeyReference
    """Key of a Secret in the task's namespace whose value is the URL. The server needs `get` on
    that Secret."""


class NotifyRequest(Model):
    """Notification of the end of a task. Exactly one of `url` and `url_from` is required."""

    url: Optional[str] = None
    """Address that receives the notification, `http` or `https`. Every user who may read the task
    can read it: use `url_from` for an address that contains a token."""
    url_from: Optional[UrlSource] = None
    """Key of a Secret in the task's namespace whose value is the address."""
    format: Optional[str] = None
    """Format of the body: `json` (default), `cloudevents`, `slack`, `dingtalk` or
    `alertmanager`."""
    secret: Optional[str] = None
    """Name of a Secret in the task's namespace whose `key` signs the notification."""


class TaskRequest(Model):
    """Task to create."""

    images: list[str]
    """Image references, 1 to 100, as in a pod."""
    batch_policy: Optional[BatchPolicy] = None
    """Order of batches: `Barrier` (default), `Rolling` or `Doubling`."""
    batch_size: Optional[Union[int, str]] = None
    """Number of nodes per batch: 1 to 100, or a percentage such as `25%`; 10 by default."""
    deadline: Optional[str] = None
    """Timeout of the entire task, such as `1h`; by default that of `--default-deadline`, 2 h."""
    image_pull_policy: Optional[PullPolicy] = None
    """Pull policy: `IfNotPresent`, or `Always` to resolve a mutable tag again. By default that of each
    image as in a pod: `Always` for the tag `latest` and for an image without tag and digest,
    otherwise `IfNotPresent`."""
    image_pull_secrets: Optional[list[str]] = None
    """Names of pull secrets in the task's namespace, for private registries."""
    max_retries: Optional[int] = None
    """Number of retries of a failed node, 0 to 5; 0 by default, and 3 with `strategy="Retry"`."""
    namespace: Optional[str] = None
    """Namespace of the task; the server's default namespace when None."""
    node_selector: Optional[dict[str, str]] = None
    """Labels that a node must have."""
    nodes: Optional[Union[int, str]] = None
    """Number of matching nodes to warm: `all` (default), `auto`, a number, or a percentage such as
    `25%`."""
    notify: Optional[list[NotifyRequest]] = None
    """Notifications of the end of the task, at most 10."""
    priority: Optional[int] = None
    """Priority among waiting tasks, 1 to 10, higher first; 5 by default."""
    pull_method: Optional[PullMethod] = None
    """Pull method: `Auto` (default), `ImageVolume` or `Helper`."""
    retain: Optional[str] = None
    """Time for which finished worker pods are kept, such as `30m`. While they exist, the kubelet
    keeps their images."""
    retry_delay: Optional[int] = None
    """Delay before the first retry, in seconds; 30 by default."""
    retry_policy: Optional[RetryGrowth] = None
    """Alias of `retry_strategy`."""
    retry_strategy: Optional[RetryGrowth] = None
    """Growth of the delay between retries: `linear` (default) or `exponential`."""
    service_account_name: Optional[str] = None
    """Name of the service account in the task's namespace whose pull secrets are used."""
    strategy: Optional[FailurePolicy] = None
    """Treatment of a failed node: `Skip`, or `Retry`, with 3 retries when `max_retries` is None.
    By default `Retry` when `max_retries` is at least 1, otherwise `Skip`."""
    success_threshold: Optional[str] = None
    """Share of nodes that must be warm for the task to complete; `90%` by default."""
    timeout: Optional[str] = None
    """Timeout per node, such as `10m` (default)."""
    tolerations: Optional[list[dict[str, Any]]] = None
    """Tolerations, as in a pod."""
    ttl_seconds_after_finished: Optional[int] = None
    """Time after its end at which the task is deleted, in seconds; never by default."""
    webhook_url: Optional[str] = None
    """Address that receives a notification as JSON when the task ends; `notify` has more
    options."""
    worker: Optional[WorkerKind] = None
    """Kind of the workers: `Job` (default) or `Pod`."""


class TaskUpdate(Model):
    """Change of a task: fields that are not set keep their values."""

    images: Optional[list[str]] = None
    """Image references, 1 to 100, as in a pod."""
    batch_policy: Optional[BatchPolicy] = None
    """Order of batches: `Barrier` (default), `Rolling` or `Doubling`."""
    batch_size: Optional[Union[int, str]] = None
    """Number of nodes per batch: 1 to 100, or a percentage such as `25%`; 10 by default."""
    deadline: Optional[str] = None
    """Timeout of the entire task, such as `1h`; by default that of `--default-deadline`, 2 h."""
    image_pull_policy: Optional[PullPolicy] = None
    """Pull policy: `IfNotPresent`, or `Always` to resolve a mutable tag again. By default that of each
    image as in a pod: `Always` for the tag `latest` and for an image without tag and digest,
    otherwise `IfNotPresent`."""
    image_pull_secrets: Optional[list[str]] = None
    """Names of pull secrets in the task's namespace, for private registries."""
    max_retries: Optional[int] = None
    """Number of retries of a failed node, 0 to 5; 0 by default, and 3 with `strategy="Retry"`."""
    namespace: Optional[str] = None
    """Namespace of the task; the server's default namespace when None."""
    node_selector: Optional[dict[str, str]] = None
    """Labels that a node must have."""
    nodes: Optional[Union[int, str]] = None
    """Number of matching nodes to warm: `all` (default), `auto`, a number, or a percentage such as
    `25%`."""
    notify: Optional[list[NotifyRequest]] = None
    """Notifications of the end of the task, at most 10."""
    priority: Optional[int] = None
    """Priority among waiting tasks, 1 to 10, higher first; 5 by default."""
    pull_method: Optional[PullMethod] = None
    """Pull method: `Auto` (default), `ImageVolume` or `Helper`."""
    retain: Optional[str] = None
    """Time for which finished worker pods are kept, such as `30m`. While they exist, the kubelet
    keeps their images."""
    retry_delay: Optional[int] = None
    """Delay before the first retry, in seconds; 30 by default."""
    retry_policy: Optional[RetryGrowth] = None
    """Alias of `retry_strategy`."""
    retry_strategy: Optional[RetryGrowth] = None
    """Growth of the delay between retries: `linear` (default) or `exponential`."""
    service_account_name: Optional[str] = None
    """Name of the service account in the task's namespace whose pull secrets are used."""
    strategy: Optional[FailurePolicy] = None
    """Treatment of a failed node: `Skip`, or `Retry`, with 3 retries when `max_retries` is None.
    By default `Retry` when `max_retries` is at least 1, otherwise `Skip`."""
    success_threshold: Optional[str] = None
    """Share of nodes that must be warm for the task to complete; `90%` by default."""
    timeout: Optional[str] = None
    """Timeout per node, such as `10m` (default)."""
    tolerations: Optional[list[dict[str, Any]]] = None
    """Tolerations, as in a pod."""
    ttl_seconds_after_finished: Optional[int] = None
    """Time after its end at which the task is deleted, in seconds; never by default."""
    webhook_url: Optional[str] = None
    """Address that receives a notification as JSON when the task ends; `notify` has more
    options."""
    worker: Optional[WorkerKind] = None
    """Kind of the workers: `Job` (default) or `Pod`."""


class TaskCreated(Model):
    """Created task."""

    batch_size: Union[int, str]
    """Number of nodes per batch: a number, or a percentage such as `25%`."""
    images: list[str]
    """Image references."""
    message: str
    """Description of the result."""
    namespace: str
    """Namespace of the task."""
    status: Status
    """Status of the task."""
    task_id: str
    """Name of its `PrewarmTask`."""
    created_at: Optional[datetime] = None
    """Creation time."""


class TaskCancelled(Model):
    """Result of a cancellation."""

    message: str
    """Description of the result."""
    status: Status
    """Status of the task, always `cancelled`."""
    task_id: str
    """Name of its `PrewarmTask`."""


class Progress(Model):
    """Progress of a task."""

    completed_nodes: int
    """Number of nodes on which every image is warm."""
    current_batch: int
    """Number of the current batch, from 1; 0 before the first."""
    failed_nodes: int
    """Number of failed nodes."""
    percentage: float
    """`completed_nodes` in percent of `total_nodes`, with one decimal."""
    total_batches: int
    """Number of batches."""
    total_nodes: int
    """Number of planned nodes."""


class ImageDetail(Model):
    """Results of one image."""

    completed_nodes: int
    """Number of nodes on which the image is warm."""
    failed_nodes: int
    """Number of nodes on which the image failed."""
    image: str
    """Image reference."""
    digest: Optional[str] = None
    """Digest of the image, when the nodes have reported it."""
    pull_policy: Optional[PullPolicy] = None
    """Pull policy that applies to the image: that of the task, or else that of its tag."""


class FailedNodeDetail(Model):
    """Failed image on a node."""

    image: str
    """Image reference; empty when the failure concerns the node."""
    message: str
    """Message of the kubelet, the API server or the controller."""
    node_name: str
    """Name of the node."""
    reason: str
    """Reason, one word of a closed set, such as `ImageNotFound`."""
    timestamp: datetime
    """Time at which the failure was observed."""


class IgnoredNodeDetail(Model):
    """Node that was left out of the plan."""

    node_name: str
    """Name of the node."""
    reason: str
    """Reason, such as `NotReady`."""


class TaskView(Model):
    """Task."""

    batch_size: Union[int, str]
    """Number of nodes per batch: a number, or a percentage such as `25%`."""
    failed_node_details: list[FailedNodeDetail]
    """Failures, at most 100; `progress.failed_nodes` counts all failed nodes."""
    image_details: list[ImageDetail]
    """Results of each image."""
    images: list[str]
    """Image references."""
    max_retries: int
    """Number of retries of a failed node."""
    message: str
    """Current activity, or the reason for the result."""
    namespace: str
    """Namespace of the task."""
    node_selector: dict[str, str]
    """Labels that a node must have."""
    origin: str
    """Origin of the task: `rest`, `admission`, `schedule` or `user`."""
    priority: int
    """Priority among waiting tasks, 1 to 10, higher first."""
    progress: Progress
    """Progress of the task."""
    retry_delay: int
    """Delay before the first retry, in seconds."""
    retry_strategy: RetryGrowth
    """Growth of the delay between retries."""
    status: Status
    """Status of the task."""
    task_id: str
    """Name of its `PrewarmTask`."""
    created_at: Optional[datetime] = None
    """Creation time."""
    current_retry: int = 0
    """Largest number of retries that a node has needed so far."""
    estimated_completion: Optional[datetime] = None
    """Estimated end time at the current rate."""
    finished_at: Optional[datetime] = None
    """End time; None before the end."""
    ignored_node_count: int = 0
    """Number of nodes that match the placement and were left out of the plan."""
    ignored_nodes: list[IgnoredNodeDetail] = Field(default_factory=list)
    """Nodes that match the placement and were left out of the plan, at most 100;
    `ignored_node_count` counts all of them."""
    skipped_nodes: int = 0
    """Number of planned nodes that were not tried: they left the cluster, or the task ended before."""
    started_at: Optional[datetime] = None
    """Start time; None before the start."""


class TaskList(Page[TaskView]):
    """Page of tasks."""

    tasks: list[TaskView]
    """Tasks, newest first."""

    @property
    def rows(self) -> list[TaskView]:
        """Alias of `tasks`."""
        return self.tasks


class TaskEvent(Model):
    """Server-sent event."""

    data: str
    """JSON of a `TaskView`, with the further fields `type`, always `progress`, and `data`, an
    object with the fields of `progress`."""
    id: str
    """ID of the event; a client sends it as `Last-Event-ID` to resume the watch."""


class Extracted(Model):
    """Images, placement and credentials of one pod template."""

    credentials: dict[str, Any]
    """Pull credentials: `imagePullSecrets`, `serviceAccountName`."""
    images: list[str]
    """Images to warm."""
    namespace: str
    """Namespace of the workload."""
    placement: dict[str, Any]
    """Placement with the fields of a pod spec: `nodeSelector`, `nodeAffinity`, `tolerations`."""
    verdict: str
    """Decision: `wanted`, `opted_out`, `one_shot`, `nothing` or `ignored`."""
    workload: str
    """Workload as `Kind/name`."""
    never_pulled: Optional[list[str]] = None
    """Images that are not warmed, because all of their containers have `imagePullPolicy: Never`.
    The first entry of an object has those of all its pod templates."""
    nodes: Optional[Union[int, str]] = None
    """Number of matching nodes to warm: a number, `all`, or a percentage."""
    pull_policies: Optional[dict[str, str]] = None
    """Pull policies of images that differ from those of their tags, `Always` or `IfNotPresent`."""
    reason: Optional[str] = None
    """Reason why the workload is ignored or counts as one-shot; None for other verdicts."""
    warnings: Optional[list[str]] = None
    """Warnings about invalid values, with the texts that kubectl prints."""


class ExtractedView(Extracted):
    """Images that would be warmed for one pod template."""

    node_count: Optional[int] = None
    """Number of nodes that would be warmed now; None when the caller may not list nodes."""
    node_names: Optional[list[str]] = None
    """Names of the first 100 of these nodes; None when they are chosen only when the task
    starts."""


class ManifestFinding(Model):
    """Error or warning about a place of a manifest."""

    document: int
    """Number of the document, from 1, not counting empty ones; 0 for the whole body."""
    field: str
    """Path of the field, such as `spec.template.spec.containers[0].image`; empty for the whole
    document."""
    message: str
    """What was found, and what to do."""
    line: Optional[int] = None
    """Number of the line in the body, from 1, if known."""


class ExtractAnswer(Model):
    """Images that would be warmed for a manifest."""

    skipped: list[str]
    """Objects that are not workloads, as `Kind/name`."""
    workloads: list[ExtractedView]
    """Workloads with images, placement, credentials and number of nodes."""
    errors: Optional[list[ManifestFinding]] = None
    """Documents and objects that cannot be read. They do not affect the others."""
    warnings: Optional[list[ManifestFinding]] = None
    """Findings about documents that can be read, such as repeated keys."""


class ScheduleRequest(Model):
    """Schedule to create."""

    cron_expr: str
    """Cron expression of five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    task_config: TaskRequest
    """Task that each execution creates."""
    description: Optional[str] = None
    """Description of the schedule."""
    enabled: Optional[bool] = None
    """False to disable the schedule; true by default."""
    history_limit: Optional[int] = None
    """Number of executions that are kept, with their tasks; 10 by default."""
    name: Optional[str] = None
    """Display name."""
    namespace: Optional[str] = None
    """Namespace of the schedule and of its tasks; the server's default namespace when None."""
    overlap_policy: Optional[Overlap] = None
    """Policy for an execution that is due while another one is running: `skip` (default), `allow`
    or `queue`."""
    starting_deadline_seconds: Optional[int] = None
    """Largest delay with which an execution may start, in seconds; unlimited by default."""
    timeout_seconds: Optional[int] = None
    """Time after which an execution is cancelled, in seconds; 0 or None for no timeout."""
    timezone: Optional[str] = None
    """Time zone of the cron expression, an IANA name; UTC by default."""


class ScheduleUpdate(Model):
    """Change of a schedule: fields that are not set, also those of `task_config`, keep their values."""

    cron_expr: Optional[str] = None
    """Cron expression of five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    task_config: Optional[TaskUpdate] = None
    """Changes of the task that each execution creates."""
    description: Optional[str] = None
    """Description of the schedule."""
    enabled: Optional[bool] = None
    """False to disable the schedule; true by default."""
    history_limit: Optional[int] = None
    """Number of executions that are kept, with their tasks; 10 by default."""
    name: Optional[str] = None
    """Display name."""
    namespace: Optional[str] = None
    """Namespace of the schedule and of its tasks; the server's default namespace when None."""
    overlap_policy: Optional[Overlap] = None
    """Policy for an execution that is due while another one is running: `skip` (default), `allow`
    or `queue`."""
    starting_deadline_seconds: Optional[int] = None
    """Largest delay with which an execution may start, in seconds; unlimited by default."""
    timeout_seconds: Optional[int] = None
    """Time after which an execution is cancelled, in seconds; 0 or None for no timeout."""
    timezone: Optional[str] = None
    """Time zone of the cron expression, an IANA name; UTC by default."""


class ScheduleView(Model):
    """Schedule."""

    created_by: str
    """Name of the user that created the schedule by REST, otherwise `kubectl`."""
    cron_expr: str
    """Cron expression."""
    description: str
    """Description of the schedule."""
    enabled: bool
    """False when the schedule is disabled."""
    history_limit: int
    """Number of executions that are kept."""
    id: str
    """Name of its `PrewarmSchedule`."""
    name: str
    """Display name; the name of the object when it has none."""
    namespace: str
    """Namespace of the schedule and of its tasks."""
    overlap_policy: Overlap
    """Overlap policy: `skip`, `allow` or `queue`."""
    task_config: TaskRequest
    """Task that each execution creates."""
    timezone: str
    """Time zone of the cron expression."""
    created_at: Optional[datetime] = None
    """Creation time."""
    last_execution_at: Optional[datetime] = None
    """Time of the last execution."""
    message: Optional[str] = None
    """First problem of the spec. When it is valid: the result of a call that enables or disables
    the schedule, otherwise None."""
    next_execution_at: Optional[datetime] = None
    """Time of the next execution; None when the schedule is disabled."""
    starting_deadline_seconds: Optional[int] = None
    """Largest delay with which an execution may start, in seconds; None for no limit."""
    status: Optional[ChangeStatus] = None
    """Result of a call that enables or disables the schedule."""
    task_id: Optional[str] = None
    """Same as `id`, in the response to a call that enables or disables the schedule."""
    timeout_seconds: Optional[int] = None
    """Time after which an execution is cancelled, in seconds; None for no timeout."""
    updated_at: Optional[datetime] = None
    """Time of the last change of the spec or the metadata."""


class ScheduleList(Page[ScheduleView]):
    """Page of schedules."""

    tasks: list[ScheduleView]
    """Schedules, sorted by namespace and name."""

    @property
    def rows(self) -> list[ScheduleView]:
        """Alias of `tasks`."""
        return self.tasks


class ScheduleDone(Model):
    """Result of a deletion of a schedule."""

    id: str
    """Name of the schedule."""
    message: str
    """Description of the result."""
    status: Optional[ChangeStatus] = None
    """Result of the call."""
    task_id: Optional[str] = None
    """Same as `id`."""


class Triggered(Model):
    """Result of a manual trigger."""

    id: str
    """Name of the schedule."""
    message: str
    """Description of the result."""
    status: Optional[ChangeStatus] = None
    """`success` when the execution has started, `queued` when it waits for another one."""
    task_id: Optional[str] = None
    """Name of the task of the execution; None while the execution waits for another one."""


class ExecutionView(Model):
    """Execution of a schedule."""

    id: int
    """Number of the execution, from 1, per schedule."""
    scheduled_task_id: str
    """Name of the schedule."""
    status: ExecutionStatus
    """Status of the execution."""
    trigger: str
    """Trigger of the execution: `schedule` or `manual`."""
    triggered_at: datetime
    """Scheduled time, or the time of a manual trigger."""
    duration_seconds: Optional[float] = None
    """Time from start to end, in seconds."""
    error_message: Optional[str] = ""
    """Reason why it did not succeed; empty while it runs and when it succeeded."""
    finished_at: Optional[datetime] = None
    """End time."""
    started_at: Optional[datetime] = None
    """Start time."""
    task_id: Optional[str] = None
    """Name of its task; None when it has none."""


class ExecutionList(Page[ExecutionView]):
    """Page of executions."""

    executions: list[ExecutionView]
    """Executions, newest first."""

    @property
    def rows(self) -> list[ExecutionView]:
        """Alias of `executions`."""
        return self.executions


class NodeView(Model):
    """Node of the cluster."""

    architecture: str
    """CPU architecture, such as `amd64`."""
    eligible: bool
    """True when a task without tolerations would use the node now."""
    image_volumes: bool
    """True when the node supports image volumes, by which images are pulled without running
    them."""
    labels: dict[str, str]
    """Labels of the node, for `node_selector`."""
    name: str
    """Name of the node."""
    os: str
    """Operating system, such as `linux`."""
    ready: bool
    """True when the node's `Ready` condition is true."""
    runtime: str
    """Container runtime and its version."""
    unschedulable: bool
    """True when the node is cordoned."""
    reason: Optional[str] = None
    """Reason why the node is not eligible, such as `NotReady`."""


class NodeList(Page[NodeView]):
    """Page of nodes."""

    nodes: list[NodeView]
    """Nodes, sorted by name."""

    @property
    def rows(self) -> list[NodeView]:
        """Alias of `nodes`."""
        return self.nodes


class Stats(Model):
    """Numbers of the tasks and schedules that the caller may list."""

    tasks: dict[str, int]
    """Number of tasks by status."""
    total_tasks: int
    """Number of all tasks."""
    enabled_schedules: Optional[int] = None
    """Number of enabled schedules; None when the caller may not list schedules."""
    schedules: Optional[int] = None
    """Number of schedules; None when the caller may not list schedules."""
    success_rate: Optional[float] = None
    """Completed tasks in percent of those that completed or failed; None when there are none of
    either."""
