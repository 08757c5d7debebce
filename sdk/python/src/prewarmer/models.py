"""What the API takes and answers, under the names of its OpenAPI document.

Attributes are in snake_case, and keys (`task["taskId"]`) are the JSON names. Times are aware datetimes; as keys they
are the RFC 3339 text that the server sent.
"""

# Without `from __future__ import annotations`: pydantic evaluates annotations, which on Python 3.9 must be old style.
from datetime import datetime
from typing import Any, Generic, Optional, TypeVar, Union

from pydantic import Field

from ._model import Model
from .enums import BatchPolicy, ExecutionStatus, Overlap, PullMethod, PullPolicy, RetryGrowth, Status, WorkerKind

Row = TypeVar("Row")
"""What a page is of."""


class Page(Model, Generic[Row]):
    """A part of a list."""

    total: int
    """How many there are in all pages."""
    limit: int
    """How many are in a page at most."""
    offset: int
    """After how many this page begins."""

    @property
    def rows(self) -> list[Row]:
        """What is in the page, by the same name for every list."""
        raise NotImplementedError


class Detail(Model):
    """What is wrong with a field."""

    field: str
    """Its path, such as `images[1]`; empty where it is the whole."""
    message: str
    """What is wrong, and what is expected."""


class ErrorBody(Model):
    """The body of an error."""

    error: str
    """What was wrong, and what to do."""
    details: list[Detail] = Field(default_factory=list)
    """Every bad field."""
    status: Optional[str] = None
    """Where it stands, when that is in the way."""
    task_id: Optional[str] = None
    """The task or schedule that was asked for."""


class SecretKeyReference(Model):
    """A key of a Secret in the task's own namespace."""

    key: str
    """The key of the Secret's data."""
    name: str
    """The Secret's name."""


class UrlSource(Model):
    """Where an address is read from when it is used."""

    secret_key_ref: SecretKeyReference
    """The key of a Secret of the task's namespace whose value is the address. The server needs `get` on that Secret."""


class NotifyRequest(Model):
    """Who is told of a task's end: exactly one of `url` and `url_from`."""

    url: Optional[str] = None
    """`http` or `https`. Everybody who may read the task can read it: give one that carries a token by `url_from`."""
    url_from: Optional[UrlSource] = None
    """The key of a Secret of the task's namespace whose value is the address."""
    format: Optional[str] = None
    """`json` (default), `cloudevents`, `slack`, `dingtalk` or `alertmanager`."""
    secret: Optional[str] = None
    """A Secret of the task's namespace whose `key` signs the message."""


class TaskRequest(Model):
    """A task that is asked for."""

    images: list[str]
    """1 to 100 references, as a pod would name them."""
    batch_policy: Optional[BatchPolicy] = None
    """How batches follow one another: `Barrier` (default), `Rolling` or `Doubling`."""
    batch_size: Optional[Union[int, str]] = None
    """How many nodes at once: 1 to 100, or a percentage such as `25%`; 10 by default."""
    deadline: Optional[str] = None
    """How long the whole task may take, such as `1h`."""
    image_pull_policy: Optional[PullPolicy] = None
    """`IfNotPresent` (default), or `Always` to check a tag that may have moved."""
    image_pull_secrets: Optional[list[str]] = None
    """Names of Secrets of the task's namespace, for private registries."""
    max_retries: Optional[int] = None
    """How many further tries a failed node gets; 0 by default."""
    namespace: Optional[str] = None
    """The task's namespace; the server's own by default."""
    node_selector: Optional[dict[str, str]] = None
    """Labels that a node must carry."""
    nodes: Optional[Union[int, str]] = None
    """How many of the matching nodes: `all` (default), `auto`, a number, or a percentage such as `25%`."""
    notify: Optional[list[NotifyRequest]] = None
    """Who is told of the end."""
    priority: Optional[int] = None
    """1 to 10; higher goes first; 5 by default."""
    pull_method: Optional[PullMethod] = None
    """`Auto` (default), `ImageVolume` or `Helper`."""
    retain: Optional[str] = None
    """How long finished worker pods hold the images, such as `30m`."""
    retry_delay: Optional[int] = None
    """Seconds before the first further try; 30 by default."""
    retry_strategy: Optional[RetryGrowth] = None
    """How the time between tries grows: `linear` (default) or `exponential`."""
    service_account_name: Optional[str] = None
    """The service account of the task's namespace whose pull secrets count."""
    success_threshold: Optional[str] = None
    """The share of nodes that must be warm for the task to count as completed; `90%` by default."""
    timeout: Optional[str] = None
    """How long a node may take, such as `10m` (default)."""
    tolerations: Optional[list[dict[str, Any]]] = None
    """Taints that are accepted, as in a pod."""
    ttl_seconds_after_finished: Optional[int] = None
    """Seconds after its end until the task is deleted; kept by default."""
    webhook_url: Optional[str] = None
    """Who is told of the end by a POST of JSON; `notify` can say more."""
    worker: Optional[WorkerKind] = None
    """`Job` (default) or `Pod`."""


class TaskCreated(Model):
    """A task that was made."""

    batch_size: Union[int, str]
    """How many nodes at once: a number, or a percentage such as `25%`."""
    images: list[str]
    """The images."""
    message: str
    """For people."""
    namespace: str
    """Its namespace."""
    status: Status
    """Where it stands."""
    task_id: str
    """The name of its `PrewarmTask`."""
    created_at: Optional[datetime] = None
    """When it was made."""


class TaskCancelled(Model):
    """A task that was cancelled."""

    message: str
    """For people."""
    status: Status
    """`cancelled`."""
    task_id: str
    """The name of its `PrewarmTask`."""


class Progress(Model):
    """How far a task is."""

    completed_nodes: int
    """On how many of them every image is warm."""
    current_batch: int
    """The batch at work, from 1; 0 before the first."""
    failed_nodes: int
    """How many failed."""
    percentage: float
    """`completed_nodes` in percent of `total_nodes`, with one decimal."""
    total_batches: int
    """How many batches there are."""
    total_nodes: int
    """How many nodes were chosen."""


class ImageDetail(Model):
    """What became of an image."""

    completed_nodes: int
    """On how many nodes it is warm."""
    failed_nodes: int
    """On how many nodes it could not be had."""
    image: str
    """The image."""
    digest: Optional[str] = None
    """Its digest, where the nodes have told it."""


class FailedNodeDetail(Model):
    """An image that could not be had on a node."""

    image: str
    """The image; empty where the failure is the node's."""
    message: str
    """The words of the kubelet, the API server or the controller."""
    node_name: str
    """The node."""
    reason: str
    """One word of a closed set, such as `ImageNotFound`."""
    timestamp: datetime
    """When it was seen."""


class TaskView(Model):
    """A task."""

    batch_size: Union[int, str]
    """How many nodes at once: a number, or a percentage such as `25%`."""
    failed_node_details: list[FailedNodeDetail]
    """The failures; at most 100, of which `progress.failed_nodes` counts all."""
    image_details: list[ImageDetail]
    """What became of each image."""
    images: list[str]
    """The images."""
    max_retries: int
    """How many further tries a failed node gets."""
    message: str
    """What it is doing, or why it ended as it did."""
    namespace: str
    """Its namespace."""
    node_selector: dict[str, str]
    """Labels that its nodes carry."""
    origin: str
    """Who made it: `rest`, `admission`, `schedule` or `user`."""
    priority: int
    """1 to 10; higher goes first."""
    progress: Progress
    """How far it is."""
    retry_delay: int
    """Seconds before the first further try."""
    retry_strategy: RetryGrowth
    """How the time between tries grows."""
    status: Status
    """Where it stands."""
    task_id: str
    """The name of its `PrewarmTask`."""
    created_at: Optional[datetime] = None
    """When it was made."""
    estimated_completion: Optional[datetime] = None
    """When it may end at the present pace."""
    finished_at: Optional[datetime] = None
    """When it ended; None before."""
    started_at: Optional[datetime] = None
    """When it began; None before."""


class TaskList(Page[TaskView]):
    """A page of tasks."""

    tasks: list[TaskView]
    """The tasks, newest first."""

    @property
    def rows(self) -> list[TaskView]:
        """The same as `tasks`."""
        return self.tasks


class TaskEvent(Model):
    """A server-sent event."""

    data: str
    """The JSON of a `TaskView`."""
    id: str
    """What `Last-Event-ID` takes the watch up from."""


class Extracted(Model):
    """What one pod template would have warmed."""

    credentials: dict[str, Any]
    """The credentials: `imagePullSecrets`, `serviceAccountName`."""
    images: list[str]
    """The images."""
    namespace: str
    """Its namespace."""
    placement: dict[str, Any]
    """The nodes, in the words of a pod: `nodeSelector`, `nodeAffinity`, `tolerations`."""
    verdict: str
    """`wanted`, `opted_out`, `nothing` or `ignored`."""
    workload: str
    """`Kind/name`."""
    nodes: Optional[Union[int, str]] = None
    """How many of the matching nodes: a number, `all`, or a percentage."""
    reason: Optional[str] = None
    """Why it is ignored, if so."""
    warnings: Optional[list[str]] = None
    """What made no sense, as kubectl would print it."""


class ExtractedView(Extracted):
    """What would be warmed for one pod template."""

    node_count: Optional[int] = None
    """How many nodes match and can be warmed now; absent where the caller may not read nodes."""
    node_names: Optional[list[str]] = None
    """The first hundred of them."""


class ExtractAnswer(Model):
    """What would be warmed."""

    skipped: list[str]
    """The documents that are no workload."""
    workloads: list[ExtractedView]
    """Each workload: images, placement, credentials, and on how many nodes."""


class ScheduleRequest(Model):
    """A schedule that is asked for."""

    cron_expr: str
    """Five fields of cron, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    task_config: TaskRequest
    """What each run asks for."""
    description: Optional[str] = None
    """What it is for."""
    enabled: Optional[bool] = None
    """Whether there are runs at all; yes by default."""
    history_limit: Optional[int] = None
    """How many runs are remembered, with their tasks; 10 by default."""
    name: Optional[str] = None
    """A name for people."""
    namespace: Optional[str] = None
    """The schedule's namespace, and that of its tasks; the server's own by default."""
    overlap_policy: Optional[Overlap] = None
    """What happens when a run is due while one is at work: `skip` (default), `allow` or `queue`."""
    starting_deadline_seconds: Optional[int] = None
    """How many seconds late a run may begin; any by default."""
    timeout_seconds: Optional[int] = None
    """Seconds after which a run is cancelled; 0 for never, as by default."""
    timezone: Optional[str] = None
    """The time zone in which they are meant; UTC by default."""


class ScheduleView(Model):
    """A schedule."""

    created_by: str
    """Who made it."""
    cron_expr: str
    """When."""
    description: str
    """What it is for."""
    enabled: bool
    """Whether there are runs at all."""
    history_limit: int
    """How many runs are remembered."""
    id: str
    """The name of its `PrewarmSchedule`."""
    name: str
    """Its name for people."""
    namespace: str
    """Its namespace."""
    overlap_policy: Overlap
    """`skip`, `allow` or `queue`."""
    task_config: TaskRequest
    """What each run asks for."""
    timezone: str
    """In which time zone."""
    created_at: Optional[datetime] = None
    """When it was made."""
    last_execution_at: Optional[datetime] = None
    """When it last ran."""
    message: Optional[str] = None
    """What is wrong with it, if anything."""
    next_execution_at: Optional[datetime] = None
    """Its next tick."""
    starting_deadline_seconds: Optional[int] = None
    """How many seconds late a run may begin."""
    timeout_seconds: Optional[int] = None
    """Seconds after which a run is cancelled."""
    updated_at: Optional[datetime] = None
    """When it was last changed."""


class ScheduleList(Page[ScheduleView]):
    """A page of schedules."""

    tasks: list[ScheduleView]
    """The schedules, by namespace and name."""

    @property
    def rows(self) -> list[ScheduleView]:
        """The same as `tasks`."""
        return self.tasks


class ScheduleDone(Model):
    """What was done to a schedule."""

    id: str
    """The schedule."""
    message: str
    """For people."""


class Triggered(Model):
    """A run by hand."""

    id: str
    """The schedule."""
    message: str
    """For people."""
    task_id: Optional[str] = None
    """The run's task; none yet where it waits for another."""


class ExecutionView(Model):
    """A run of a schedule."""

    id: int
    """Counted from 1, for each schedule."""
    scheduled_task_id: str
    """The schedule."""
    status: ExecutionStatus
    """What became of it."""
    trigger: str
    """`schedule` or `manual`."""
    triggered_at: datetime
    """The tick, or when it was asked for."""
    duration_seconds: Optional[int] = None
    """Seconds from its start to its end."""
    error_message: Optional[str] = None
    """Why, where it did not succeed."""
    finished_at: Optional[datetime] = None
    """When it ended; None before."""
    started_at: Optional[datetime] = None
    """When it began."""
    task_id: Optional[str] = None
    """Its task, if it has one."""


class ExecutionList(Page[ExecutionView]):
    """A page of runs."""

    executions: list[ExecutionView]
    """The runs, newest first."""

    @property
    def rows(self) -> list[ExecutionView]:
        """The same as `executions`."""
        return self.executions


class NodeView(Model):
    """A node."""

    architecture: str
    """Such as `amd64`."""
    eligible: bool
    """Whether a task that tolerates no taint would be given it now."""
    image_volumes: bool
    """Whether images can be pulled there without being run."""
    labels: dict[str, str]
    """Its labels, for `node_selector`."""
    name: str
    """Its name."""
    os: str
    """Such as `linux`."""
    ready: bool
    """Whether it is ready."""
    runtime: str
    """The container runtime."""
    unschedulable: bool
    """Whether it is cordoned."""
    reason: Optional[str] = None
    """Why not: one word, such as `NotReady`."""


class NodeList(Page[NodeView]):
    """A page of nodes."""

    nodes: list[NodeView]
    """The nodes, by name."""

    @property
    def rows(self) -> list[NodeView]:
        """The same as `nodes`."""
        return self.nodes


class Stats(Model):
    """How much there is of everything that the caller may see."""

    tasks: dict[str, int]
    """How many tasks there are, by status."""
    total_tasks: int
    """All of them."""
    enabled_schedules: Optional[int] = None
    """How many of them are enabled; none where the caller may not list them."""
    schedules: Optional[int] = None
    """How many schedules there are; none where the caller may not list them."""
    success_rate: Optional[float] = None
    """Of those that completed or failed, how many percent completed; none where none did either."""
