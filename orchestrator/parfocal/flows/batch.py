"""What a batch is, how large its jobs are, and how far a run of it has come, in numbers and in words."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from parfocal.runtime.datasets.findings import count
from parfocal.runtime.images.taken import EVERYTHING, Taken
from parfocal.runtime.store.store import Location

Unlike = Literal["warn", "stop", "ignore"]
"""What is done about images that differ from the training data."""
_SHARD_SECONDS, _LEAST_SECONDS = 300.0, 60.0
_FIRST_SHARD, _LARGEST_SHARD = 16, 500
_TOLD = 3


@dataclass(frozen=True)
class Step:
    """A published model version, by its address, and the parameters of its prediction that differ from defaults."""

    model_uri: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What is predicted with what.

    Attributes
    ----------
    source
        Folder in the store whose images, also those of its sub-folders, are predicted.
    output
        Folder in the store that gets the outputs under the names of the images.
    steps
        The models: the first takes the images, each further one what the one before has made of them.
    keep
        Whether what the steps before the last one make is delivered too, below `steps/`.
    taken
        What the first model takes of each image, as far as it has that; nothing chosen: what was taken of the files
        that it was trained on.
    """

    source: Location
    output: Location
    steps: Sequence[Step]
    keep: bool = False
    taken: Taken = EVERYTHING

    @property
    def key(self) -> str:
        """Name of its ledger: the same for the same work."""
        models: list[Any] = [[step.model_uri, dict(step.parameters)] for step in self.steps]
        work = models[0] if len(models) == 1 else [models, self.keep]
        # Ledgers that were begun before something could be chosen go on.
        work = [*work, self.taken.options] if self.taken else work
        text = json.dumps([str(self.source), str(self.output), *work], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def shard_size(seconds_per_image: float, left: int, in_flight: int) -> int:
    """Return how many images make the next job.

    A job takes some minutes. Towards the end jobs become smaller, but not shorter than a minute, so that all devices
    finish together.

    Parameters
    ----------
    seconds_per_image
        What an image took in earlier jobs; 0: nobody knows.
    left
        Images that no job has yet.
    in_flight
        Jobs under way at the same time.
    """
    if not seconds_per_image:
        return _FIRST_SHARD
    least, most = (
        max(1, min(_LARGEST_SHARD, math.floor(seconds / max(seconds_per_image, 1e-3))))
        for seconds in (_LEAST_SECONDS, _SHARD_SECONDS)
    )
    return max(least, min(most, math.ceil(left / (2 * in_flight))))


@dataclass
class Progress:
    """How far a run has come.

    Attributes
    ----------
    found, ended_before
        Images of the folder, and those of them that earlier runs had ended.
    predicted, failed
        Images that this run ended.
    elsewhere
        Images that another run has taken, and images that changed while this one looked.
    to_repeat
        Images whose job failed; a later run tries them again.
    reasons
        Why images were not predicted, by their names.
    unlike
        How images differ from the training data of the first model, by their names.
    """

    found: int = 0
    ended_before: int = 0
    predicted: int = 0
    failed: int = 0
    elsewhere: int = 0
    to_repeat: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The same in words."""
        parts = [f"{count(self.predicted, 'image')} predicted"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.to_repeat} to be tried again"] if self.to_repeat else []
        parts += [f"{self.elsewhere} being written or in work elsewhere"] if self.elsewhere else []
        sentence = f"{', '.join(parts)}; {self.ended_before} of {self.found} had been done before."
        if self.reasons:
            told = sorted(self.reasons.items())[:_TOLD]
            more = f"; and {len(self.reasons) - _TOLD} more" if len(self.reasons) > _TOLD else ""
            verb = "was" if len(self.reasons) == 1 else "were"
            said = (reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in told)
            why = "; ".join(each.removesuffix(".") for each in said)
            sentence += f" {count(len(self.reasons), 'image')} {verb} not predicted: {why}{more}."
        if self.unlike:
            name, text = next(iter(self.unlike.items()))
            verb = "differs" if len(self.unlike) == 1 else "differ"
            what = f"{count(len(self.unlike), 'image')} {verb} from the training data"
            sentence += f" {what}, for example {name}: {text}."
        return sentence
