"""Enumerations of the API."""

from __future__ import annotations

from enum import Enum
from typing import Optional, TypeVar

_W = TypeVar("_W", bound="Word")


class Word(str, Enum):
    """String enumeration that accepts unknown values. Known and unknown values equal their text."""

    # Otherwise str() and f-strings would return "Status.RUNNING".
    __str__ = str.__str__

    @classmethod
    def _missing_(cls: type[_W], value: object) -> Optional[_W]:
        if not isinstance(value, str):
            return None
        # Unknown values are not cached, because their number is unbounded.
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


class BatchPolicy(Word):
    """Order in which batches of nodes follow one another."""

    BARRIER = "Barrier"
    ROLLING = "Rolling"
    DOUBLING = "Doubling"


class ChangeStatus(Word):
    """Result of a change of a schedule."""

    SUCCESS = "success"
    QUEUED = "queued"


class ExecutionStatus(Word):
    """Status of an execution."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    TIMEOUT = "timeout"


class FailurePolicy(Word):
    """Treatment of a failed node."""

    SKIP = "Skip"
    RETRY = "Retry"


class Overlap(Word):
    """Policy for an execution that is due while another one is running."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"


class PullMethod(Word):
    """Method that pulls an image on a node."""

    AUTO = "Auto"
    IMAGE_VOLUME = "ImageVolume"
    HELPER = "Helper"


class PullPolicy(Word):
    """Condition under which the kubelet contacts the registry."""

    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"


class RetryGrowth(Word):
    """Growth of the delay between retries."""

    LINEAR = "linear"
    EXPONENTIAL = "exponential"


class Status(Word):
    """Status of a task."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if the status is final."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class WorkerKind(Word):
    """Kind of the object that pulls on a node."""

    JOB = "Job"
    POD = "Pod"
