"""The words of the API."""

from __future__ import annotations

from enum import Enum
from typing import Optional, TypeVar

_W = TypeVar("_W", bound="Word")


class Word(str, Enum):
    """A word of a set that may grow: an unknown one is kept as it is, and equals its text like the known ones."""

    # Otherwise str() and f-strings would tell "Status.RUNNING".
    __str__ = str.__str__

    @classmethod
    def _missing_(cls: type[_W], value: object) -> Optional[_W]:
        if not isinstance(value, str):
            return None
        # Not remembered: what a server makes up must not grow without end.
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


class BatchPolicy(Word):
    """How batches of nodes follow one another."""

    BARRIER = "Barrier"
    ROLLING = "Rolling"
    DOUBLING = "Doubling"


class ExecutionStatus(Word):
    """What became of a run."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    TIMEOUT = "timeout"


class Overlap(Word):
    """What happens when a run is due while one is at work."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"


class PullMethod(Word):
    """Which method pulls an image on a node."""

    AUTO = "Auto"
    IMAGE_VOLUME = "ImageVolume"
    HELPER = "Helper"


class PullPolicy(Word):
    """When the kubelet asks the registry."""

    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"


class RetryGrowth(Word):
    """How the time between tries grows."""

    LINEAR = "linear"
    EXPONENTIAL = "exponential"


class Status(Word):
    """Where a task stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether a task of this status changes no more."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class WorkerKind(Word):
    """What kind of object pulls on a node."""

    JOB = "Job"
    POD = "Pod"
