"""What Parfocal writes of a model into a package for other programs, so that the model can come back."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from parfocal.runtime.images.drift import TrainingStatistics
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.store.facts import Facts

RECORD: Final = "parfocal.json"
"""Name of the file in a package, beside the model's own files."""


class Record(BaseModel):
    """What Parfocal writes of a model into a package, beside the model's own files.

    Attributes
    ----------
    method, parameters, facts, normaliser, training_statistics, pixel_size_um, warnings
        As in the model's manifest.
    weights
        The name of the weights in the package, and the epoch they are from.
    files
        Names of the model's own files.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    parameters: dict[str, Any]
    facts: Facts
    normaliser: Normaliser
    weights: dict[str, int] = Field(min_length=1, max_length=1)
    files: tuple[str, ...] = Field(min_length=1, max_length=20)
    training_statistics: TrainingStatistics | None = None
    pixel_size_um: tuple[float | None, float | None, float | None] | None = None
    warnings: tuple[str, ...] = ()

    @field_validator("normaliser", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        return Normaliser.of_record(value) if isinstance(value, dict) else value
