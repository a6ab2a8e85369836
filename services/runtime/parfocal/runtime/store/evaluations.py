"""What an evaluation says, as its job, its report, the command line, the workflows and programs read it.

`summary.json` of every evaluation is an `EvaluationSummary`, `metrics.csv` has a column for each of its metrics. A
kind of quality control brings its own metrics; whoever shows them needs to know none of them beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.scores import Scores, read_scores
from parfocal.runtime.store.store import Location, Store

SUMMARY_FILE: Final = "summary.json"
METRICS_FILE: Final = "metrics.csv"

Kind = Literal["input", "baseline", "prediction"]
"""What was scored: the input of the model, the baseline, the output of the model."""

KINDS: Final[tuple[Kind, ...]] = ("input", "baseline", "prediction")

Outcome = Literal["better", "worse", "not distinguishable", "too few images"]


class Metric(BaseModel):
    """One number of an image: how it is called, written and read, in tables, axes, sentences and pages alike.

    Attributes
    ----------
    key
        Name in programs and column of metrics.csv, e.g. "boundary_distance_um".
    title
        Name within a sentence, e.g. "PSNR" or "mean accuracy".
    unit
        E.g. "dB"; empty for a pure number.
    digits
        After the decimal point.
    better
        Direction that is better; "none" for metrics that describe rather than judge.
    best
        The value that nothing can exceed, e.g. 1 for F1; None where there is no such value.
    used_by_verdict
        Whether passing or failing depends on it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    title: str
    unit: str = ""
    digits: int = 3
    better: Literal["higher", "lower", "none"] = "higher"
    best: float | None = None
    used_by_verdict: bool = False

    @property
    def heading(self) -> str:
        """Title with unit, for columns and axes."""
        title = f"{self.title[:1].upper()}{self.title[1:]}"
        return f"{title} [{self.unit}]" if self.unit else title

    def number(self, value: float, *, signed: bool = False) -> str:
        """Return a value, or a difference of two, as people read it, without the unit."""
        return f"{value:{'+' if signed else ''}.{self.digits}f}"

    def text(self, value: float, *, signed: bool = False) -> str:
        """Return a value, or a difference of two, with the unit."""
        return f"{self.number(value, signed=signed)}{f' {self.unit}' if self.unit else ''}"


@dataclass(frozen=True)
class Statistics:
    """One metric over the images.

    `sd` is the sample standard deviation (None for one image); `low` and `high` are the bootstrap interval of the
    mean (None for fewer than three images).
    """

    mean: float
    median: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedDifference:
    """The prediction against `other`, image by image, in one metric of which more is better.

    `difference` is prediction minus other, `wins` the number of images in which the prediction is better. `outcome` is
    "better" or "worse" where the interval of the mean difference leaves out zero.
    """

    metric: str
    other: Kind
    difference: Statistics
    wins: int
    images: int
    outcome: Outcome


@dataclass(frozen=True)
class ImageScore:
    """One image of one kind: `values` by metric, averaged over its `slices`, of which `failed_slices` failed.

    A mean is over the slices that have a value, and NaN where none has. An image (Y, X) has one slice. `failures` are
    the different reasons.
    """

    image: str
    values: Mapping[str, float]
    slices: int = 1
    failed_slices: int = 0
    failures: tuple[str, ...] = ()

    def defined(self) -> ImageScore:
        """Return the same without metrics that have no value."""
        values = {metric: value for metric, value in self.values.items() if not math.isnan(value)}
        return ImageScore(self.image, values, self.slices, self.failed_slices, self.failures)


class EvaluationSummary(BaseModel):
    """Results of an evaluation over all its images; the content of summary.json.

    Attributes
    ----------
    task
        Name of the evaluation method, e.g. "restoration".
    definition
        How the numbers were made, to be printed beside them.
    verdict, reasons, remarks, next_steps
        Whether the model can be trusted, what decided, what a reader should know besides, and what to try if it failed.
    images
        Number of images that were scored; a stack is one.
    columns
        Everything that was measured: the columns of metrics.csv.
    shown
        The metrics for people, the most important first; it is the one that ranks the images.
    counted
        The numbers of objects, which are added up over images where others are averaged.
    metrics
        By kind and metric: statistics over the images that have a value; metrics without any value are left out.
    headline
        The numbers that lists of jobs and models show, e.g. "prediction_psnr".
    comparisons
        The prediction against the other kinds.
    worst_image, failed_images
        The image that the figure shows, and those whose prediction failed outright.
    unscorable
        By image: why its prediction could not be scored.
    note
        Sentences that explain the table.
    interval, thresholds, baseline
        How the intervals were computed, the thresholds of the verdict, and the baseline: its "name" and how it was
        chosen.
    targets
        By role: the same for each target if there are several; otherwise empty.
    details
        Values that only this kind of quality control has.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    definition: str
    verdict: Literal["passed", "failed"]
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    images: int
    columns: tuple[Metric, ...]
    shown: tuple[str, ...]
    counted: tuple[str, ...] = ()
    metrics: dict[Kind, dict[str, Statistics]]
    headline: dict[str, float] = {}
    comparisons: tuple[PairedDifference, ...] = ()
    worst_image: ImageScore
    failed_images: tuple[str, ...] = ()
    unscorable: dict[str, str] = {}
    note: str = ""
    interval: dict[str, Any]
    thresholds: dict[str, Any]
    baseline: dict[str, Any]
    targets: dict[str, EvaluationSummary] = {}
    details: dict[str, Any] = {}

    @classmethod
    def read(cls, store: Store, place: Location) -> EvaluationSummary:
        """Return the summary of a published evaluation.

        Raises
        ------
        NotFoundError
            There is none.
        InvalidInputError
            Another version of Parfocal wrote it in a way that this one does not know.
        """
        manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
        return cls.parse(store.read(manifest.place_of(place, SUMMARY_FILE)), str(place))

    @classmethod
    def parse(cls, content: bytes | str, name: str) -> EvaluationSummary:
        """Return the summary in the text of a summary.json; `name` says in errors whose it is."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its content"
            raise InvalidInputError(
                f"{SUMMARY_FILE} of {name} was written by another version of Parfocal ({where}: {first['msg']}). "
                "Evaluate again."
            ) from error

    def to_json(self) -> str:
        """Return the text of summary.json."""
        return self.model_dump_json(indent=2)

    def metric(self, key: str) -> Metric:
        """Return what is known of a metric; raise KeyError if it was not measured."""
        return {metric.key: metric for metric in self.columns}[key]

    @property
    def shown_metrics(self) -> tuple[Metric, ...]:
        """The metrics for people, the most important first."""
        return tuple(map(self.metric, self.shown))

    @property
    def primary(self) -> Metric:
        """The metric that ranks the images."""
        return self.metric(self.shown[0])

    @property
    def names(self) -> dict[Kind, str]:
        """Names of the kinds in the order in which they are shown: input and baseline first."""
        baseline = str(self.baseline.get("name", "baseline"))
        names: dict[Kind, str] = {"input": "Input", "baseline": f"{baseline[:1].upper()}{baseline[1:]}"}
        names["prediction"] = "Prediction"
        return {kind: name for kind, name in names.items() if kind in self.metrics}

    @property
    def parts(self) -> dict[str, EvaluationSummary]:
        """The summary of each target by its role; where there is only one, that under no name."""
        return self.targets or {"": self}

    def scores(self, table: str, name: str = METRICS_FILE) -> Scores:
        """Return what people are shown of single images, from the text of metrics.csv; see `read_scores`."""
        return read_scores(table, (*self.shown, *self.counted), name)


def direction_note(metrics: Iterable[Metric]) -> str:
    """Say which way is better, e.g. "Higher is better, except for NRMSE."."""
    judged = [metric for metric in metrics if metric.better != "none"]
    lower = [metric.title for metric in judged if metric.better == "lower"]
    if not lower:
        return "Higher is better."
    if len(lower) == len(judged):
        return "Lower is better."
    return f"Higher is better, except for {' and '.join([', '.join(lower[:-1]), lower[-1]] if lower[1:] else lower)}."
