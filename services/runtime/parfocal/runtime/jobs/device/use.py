"""What a device is used for or wanted for, and what people are told about it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from parfocal import v1
from parfocal.runtime.jobs.records import job_kind

_MINUTE = 60.0


class Kind(StrEnum):
    """Kinds of work on a device."""

    TRAINING = "training"
    PREDICTION = "prediction"
    IMAGES = "images"
    OTHER = "other"


@dataclass(frozen=True)
class Use:
    """One piece of work that has a device or waits for one.

    Attributes
    ----------
    kind
        The kind of work.
    service, project, job
        Whose it is; `job` is empty for single images, whose project is not known here.
    short
        Whether it goes before other work, and trainings hand the device over to it.
    begun
        Whether it has had the device before: it then goes before others of its kind.
    """

    kind: Kind
    service: str = ""
    project: str = ""
    job: str = ""
    short: bool = False
    begun: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, job: v1.Job, short_prediction_images: int) -> Use:
        """Return the use of a device for a job; predictions of at most so many images are short."""
        kinds = {v1.JOB_KIND_TRAINING: Kind.TRAINING, v1.JOB_KIND_PREDICTION: Kind.PREDICTION}
        kind = kinds.get(job_kind(job), Kind.OTHER)
        short = kind is Kind.PREDICTION and job.progress.steps <= short_prediction_images
        return cls(kind, job.service, job.project, job.id, short, job.attempt > 0)

    @classmethod
    def of_images(cls, service: str) -> Use:
        """Return the use of a device for single images of a service."""
        return cls(Kind.IMAGES, service, short=True)

    @property
    def gives_way(self) -> bool:
        """Whether it hands the device over to other work between two epochs."""
        return self.kind is Kind.TRAINING

    def words(self, project: str) -> str:
        """Return what it is called towards people of a project: other projects' jobs are not named."""
        if self.kind is Kind.IMAGES:
            return f"a single image of the service {self.service}" if self.service else "a single image"
        if self.kind is Kind.OTHER:
            return "other work"
        if project and project != self.project:
            return f"a {self.kind} of another project"
        return f"the {self.kind} {self.job} of the service {self.service}"


@dataclass(frozen=True)
class Holder:
    """The work that has a device, and how far it is by its own measurements.

    Attributes
    ----------
    use
        The work.
    device
        Name of the device's lock.
    epoch, epochs
        Epochs completed and to be done; 0 for anything but trainings.
    turn_at, ends_at
        When the present epoch and the work will be done, in seconds since 1970; 0 where it is not known yet.
    """

    use: Use
    device: str = ""
    epoch: int = 0
    epochs: int = 0
    turn_at: float = 0.0
    ends_at: float = 0.0

    def to_bytes(self) -> bytes:
        """Return it as `read` takes it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, data: bytes) -> Holder | None:
        """Return what `to_bytes` gave; None for anything else."""
        try:
            content: dict[str, Any] = json.loads(data)
            use = content.pop("use")
            return cls(use=Use(**{**use, "kind": Kind(use["kind"])}), **content)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def words(self, project: str, *, hands_over: bool) -> str:
        """Return who has the device and about how long, in words for people of a project.

        Parameters
        ----------
        project
            Their project.
        hands_over
            Whether whoever waits goes before the rest of a training.
        """
        text = f"{self.use.words(project)} has the device"
        if self.epochs:
            text += f" (epoch {min(self.epoch + 1, self.epochs)} of {self.epochs})"
        if self.use.gives_way and hands_over:
            left = duration(self.turn_at - time.time()) if self.turn_at else ""
            return f"{text} and hands it over after this epoch{f', in {left}' if left else ''}"
        left = duration(self.ends_at - time.time()) if self.ends_at else ""
        return f"{text}, {left} left" if left else text


def duration(seconds: float) -> str:
    """Return a time in words, as coarse as an estimate is, e.g. "about 20 s"."""
    if seconds < _MINUTE:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    if seconds < 90 * _MINUTE:
        return f"about {round(seconds / _MINUTE)} min"
    return f"about {seconds / 3600:.1f} h"
