"""One evaluation: what every kind of quality control does in the same way, and what each brings of its own.

`run_evaluation` fetches, has every image scored, writes tables, summary, figures and report, and publishes. A `Judge`
says what the inputs are, scores one of them, reaches a verdict and draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel

from parfocal import v1
from parfocal.qc.evaluation.advice import UNSEEN, next_steps
from parfocal.qc.evaluation.inputs import Inputs, ItemT, scratch_of
from parfocal.qc.evaluation.publish import evaluation_published_before, publish_evaluation
from parfocal.qc.evaluation.room import Held, Sized, workers_that_fit
from parfocal.qc.evaluation.rows import ScoreRow, write_metrics_csv
from parfocal.qc.evaluation.score_each import score_each
from parfocal.qc.evaluation.statistics import INTERVAL, image_scores, summarise_scores
from parfocal.qc.evaluation.verdict import Judgement, baseline_ahead, seen_in_training, with_test, with_unscorable
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.report.content import Block
from parfocal.runtime.store.evaluations import (
    METRICS_FILE,
    SUMMARY_FILE,
    EvaluationSummary,
    ImageScore,
    Kind,
    Metric,
    PairedDifference,
)
from parfocal.runtime.store.publish import empty_folder


class Scored(Protocol):
    """One image that was scored: what is kept of it once its pixels are gone."""

    @property
    def item(self) -> Any:
        """The image as it was given."""
        ...

    @property
    def rows(self) -> Sequence[ScoreRow]:
        """Its rows in metrics.csv."""
        ...


ScoredT = TypeVar("ScoredT", bound=Scored)
ParametersT = TypeVar("ParametersT", bound=BaseModel)


@dataclass(frozen=True)
class Part(Generic[ScoredT]):
    """The images of one target, or all of them.

    Attributes
    ----------
    role
        Role of the target.
    scored
        Scored items in order of scoring; at least one.
    scores
        The same by kind, stacks averaged over their slices, in order of name.
    unscorable
        By further image: why its prediction cannot be scored.
    worst
        The image whose prediction is the worst.
    """

    role: str
    scored: Sequence[ScoredT]
    scores: Mapping[Kind, Sequence[ImageScore]]
    unscorable: Mapping[str, str]
    worst: ImageScore

    @property
    def images(self) -> Sequence[ImageScore]:
        """The predictions."""
        return self.scores["prediction"]

    def of(self, label: str) -> ScoredT:
        """Return one of the images."""
        return next(each for each in self.scored if each.item.label == label)


class Judge(ABC, Generic[ParametersT, ItemT, ScoredT]):
    """One kind of quality control: a fresh object judges the prediction of one job.

    Parameters
    ----------
    context
        The job.
    folder
        Everything that is written here is published.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    """The columns of metrics.csv."""
    shown: ClassVar[tuple[str, ...]]
    """The metrics for people; the first ranks the images."""
    counted: ClassVar[tuple[str, ...]] = ()
    """The numbers of objects, which are added up over images."""
    headline: ClassVar[tuple[str, ...]]
    """The metrics whose means lists of jobs and models show."""
    kinds: ClassVar[tuple[Kind, ...]] = ("baseline", "prediction")
    definition: ClassVar[str]
    """Definitions of the numbers, to be printed beside them."""
    pixel_bytes: ClassVar[int] = 0
    """Bytes of memory that an image takes for each of its pixels while it is scored, as measured; 0 if unknown."""
    held: ClassVar[Held | None] = None
    """What of an image is in memory at a time; None where it is all of it."""

    def __init__(self, context: JobContext, parameters: ParametersT, folder: Path) -> None:
        self.context, self.parameters, self.folder = context, parameters, folder
        self.scratch = scratch_of(context)

    @abstractmethod
    def inputs(self) -> Inputs[ItemT]:
        """Return what is to be scored."""

    def sized(self, inputs: Inputs[ItemT]) -> Sequence[Sized]:
        """Return the images that memory is needed for: those that are scored, and others as large."""
        return inputs.items

    def bytes_of(self, image: Any) -> int:  # noqa: ARG002
        """Return how many bytes of memory one of `sized` takes for each of its pixels."""
        return self.pixel_bytes

    @abstractmethod
    def prepare(self, inputs: Inputs[ItemT]) -> None:
        """Prepare the baselines, and whatever else depends on all inputs."""

    @abstractmethod
    def score(self, item: ItemT) -> ScoredT:
        """Score one image, in a thread; see `of_prediction` for whose fault an error is.

        Raises
        ------
        PredictionError
            The prediction cannot be scored: a failed image.
        LeftOutError
            The image says nothing, whatever was predicted.
        InvalidInputError
            The test data cannot be used, which ends the job.
        """

    def collect(self, stream: Iterator[ScoredT], items: Sequence[ItemT]) -> list[ScoredT]:  # noqa: ARG002
        """Return the scores of all images, which come one after the other in their order."""
        return list(stream)

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Return what orders the predictions, the worst first."""
        return (image.values[self.shown[0]],)

    @abstractmethod
    def verdict(self, part: Part[ScoredT], left_out: Mapping[str, str]) -> Judgement:
        """Pass or fail a model on the images of one target, predictions that cannot be scored included.

        `left_out` are the images that were not judged, and why.
        """

    def verdict_of_test(self, judgement: Judgement, inputs: Inputs[ItemT]) -> Judgement:
        """Add what the choice of the test images says of the verdict."""
        return with_test(judgement, inputs, self.failures_allowed)

    @property
    def failures_allowed(self) -> int:
        """How many images may fail."""
        return int(getattr(self.parameters, "max_failed_images"))  # noqa: B009 - not every model has it

    @abstractmethod
    def thresholds(self) -> BaseModel:
        """Return the thresholds of the verdict."""

    @abstractmethod
    def baseline(self, role: str) -> dict[str, Any]:
        """Return what the baseline of a target is and how it was chosen: its "name", and further plain JSON types."""

    @abstractmethod
    def note(self, part: Part[ScoredT]) -> str:
        """Return what a reader of the table of scores must know, in sentences."""

    def comparisons(self, part: Part[ScoredT]) -> Sequence[PairedDifference]:  # noqa: ARG002
        """Return the prediction against the other kinds."""
        return ()

    def failed(self, part: Part[ScoredT]) -> Sequence[str]:
        """Return the images whose prediction failed outright."""
        return [image.image for image in part.images if image.failed_slices]

    def headlines(self, part: Part[ScoredT], summary: EvaluationSummary) -> dict[str, float]:  # noqa: ARG002
        """Return the numbers that lists show, by kind and metric, e.g. "prediction_psnr"."""
        return {
            f"{kind}_{metric}": summary.metrics[kind][metric].mean
            for kind in self.kinds
            for metric in self.headline
            if metric in summary.metrics[kind]
        }

    def details(self, part: Part[ScoredT]) -> dict[str, Any]:  # noqa: ARG002
        """Return what only this kind of quality control has, as plain JSON types."""
        return {}

    @abstractmethod
    def draw(self, part: Part[ScoredT], summary: EvaluationSummary, suffix: str) -> None:
        """Write figure{suffix}.png, which shows the worst image, and further figures and tables of a target."""

    def tables(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield what the report has below the table of scores of a target."""
        return iter(())

    def pictures(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield what the report has below the figure of a target."""
        return iter(())


def run_evaluation(
    context: JobContext, judge_class: Callable[[JobContext, Any, Path], Judge[Any, ItemT, ScoredT]]
) -> None:
    """Score the job's prediction and publish the evaluation; add it to the model if one is named."""
    if evaluation_published_before(context):
        return
    context.report_progress(v1.Progress(stage="preparing"), message="fetching images", at_once=True)
    context.describe(precision="float32")
    folder = empty_folder(context.scratch / "evaluation")
    judge = judge_class(context, context.parameters, folder)
    inputs = judge.inputs()
    workers = workers_that_fit(judge.sized(inputs), judge.bytes_of, judge.held)
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    judge.prepare(inputs)
    unscorable: dict[str, str] = {}
    left_out = dict(inputs.left_out)
    stream = score_each(
        context,
        inputs.items,
        judge.score,
        shown=lambda each: _shown(judge, each),
        unscorable=unscorable,
        left_out=left_out,
        workers=workers,
    )
    scored = judge.collect(stream, inputs.items)
    context.stages.enter("reporting")
    write_metrics_csv(folder / METRICS_FILE, (row for each in scored for row in each.rows), judge.metrics)
    summary, parts = _summarise(judge, inputs, scored, unscorable, left_out)
    for number, (role, part) in enumerate(parts.items()):
        first = number == 0 and role == inputs.roles[0]
        judge.draw(part, summary.targets.get(role, summary), "" if first else f"_{role}")
    (folder / SUMMARY_FILE).write_text(summary.to_json(), encoding="utf-8")
    by_image = {each.item.label: _shown(judge, each) for each in scored}
    publish_evaluation(context, inputs, folder, summary, by_image, tables=judge.tables, pictures=judge.pictures)


def _shown(judge: Judge[Any, Any, ScoredT], scored: ScoredT) -> dict[str, float]:
    """Return the numbers of one prediction that people are shown."""
    image = image_scores((row for row in scored.rows if row.kind == "prediction"), ("prediction",))["prediction"][0]
    values = image.defined().values
    return {metric: float(values[metric]) for metric in judge.shown if metric in values}


def _part(
    judge: Judge[Any, Any, ScoredT], role: str, scored: Sequence[ScoredT], unscorable: Mapping[str, str]
) -> Part[ScoredT]:
    scores = image_scores((row for each in scored for row in each.rows), judge.kinds)
    return Part(role, scored, scores, unscorable, min(scores["prediction"], key=judge.rank))


def _summary(judge: Judge[Any, Any, ScoredT], part: Part[ScoredT], judgement: Judgement) -> EvaluationSummary:
    found = summarise_scores(part.scores)
    measured = {metric for by_metric in found.values() for metric in by_metric}
    everywhere = set.intersection(*(set(found[kind]) for kind in judge.kinds))
    summary = EvaluationSummary(
        task=judge.context.method.name,
        definition=judge.definition,
        verdict=judgement.verdict,
        reasons=judgement.reasons,
        remarks=judgement.remarks,
        next_steps=judgement.next_steps,
        images=len(part.images),
        columns=tuple(metric for metric in judge.metrics if metric.key in measured),
        shown=tuple(metric for metric in judge.shown if metric in everywhere),
        counted=judge.counted,
        metrics={kind: found[kind] for kind in judge.kinds},
        comparisons=tuple(judge.comparisons(part)),
        worst_image=part.worst.defined(),
        failed_images=tuple(judge.failed(part)),
        unscorable=dict(part.unscorable),
        note=judge.note(part),
        interval=dict(INTERVAL),
        thresholds=judge.thresholds().model_dump(),
        baseline=judge.baseline(part.role),
        details=judge.details(part),
    )
    return summary.model_copy(update={"headline": judge.headlines(part, summary)})


def _summarise(
    judge: Judge[Any, ItemT, ScoredT],
    inputs: Inputs[ItemT],
    scored: Sequence[ScoredT],
    unscorable: Mapping[str, str],
    left_out: Mapping[str, str],
) -> tuple[EvaluationSummary, dict[str, Part[ScoredT]]]:
    """Return the summary, and the images of each target of which some could be scored."""
    parts: dict[str, Part[ScoredT]] = {}
    judgements: dict[str, Judgement] = {}
    for role in inputs.roles:
        labels = {item.label for item in inputs.items if item.role == role}
        lost = {label: why for label, why in unscorable.items() if label in labels}
        mine = [each for each in scored if each.item.label in labels]
        if mine:
            parts[role] = _part(judge, role, mine, lost)
            judgements[role] = _with_baseline_ahead(judge, parts[role], judge.verdict(parts[role], left_out))
        else:
            judgements[role] = with_unscorable(Judgement("failed", (), ()), lost, len(lost), 0)
    judgement = _with_next_steps(judge, parts, inputs, judge.verdict_of_test(_joined(judgements), inputs))
    if len(inputs.roles) == 1:
        return _summary(judge, parts[inputs.roles[0]], judgement), parts
    everything = _part(judge, inputs.roles[0], scored, unscorable)
    targets = {role: _summary(judge, part, judgements[role]) for role, part in parts.items()}
    headline = {f"{role}_{name}": value for role, each in targets.items() for name, value in each.headline.items()}
    whole = _summary(judge, everything, judgement)
    return whole.model_copy(update={"targets": targets, "headline": headline}), parts


def _with_baseline_ahead(judge: Judge[Any, Any, ScoredT], part: Part[ScoredT], judgement: Judgement) -> Judgement:
    baseline = f"The baseline ({judge.baseline(part.role)['name']})"
    names: dict[Kind, str] = {"input": "The input", "baseline": baseline}
    shown = [metric for metric in judge.metrics if metric.key in judge.shown]
    remarks = baseline_ahead(part.scores, shown, {kind: names[kind] for kind in judge.kinds if kind in names})
    return replace(judgement, remarks=(*judgement.remarks, *remarks))


def _with_next_steps(
    judge: Judge[Any, ItemT, ScoredT], parts: Mapping[str, Part[ScoredT]], inputs: Inputs[ItemT], judgement: Judgement
) -> Judgement:
    if judgement.verdict == "passed":
        return judgement
    if seen_in_training(inputs):
        return replace(judgement, next_steps=UNSEEN)
    worst = [part.worst.image for part in parts.values()]
    comparisons = [comparison for part in parts.values() for comparison in judge.comparisons(part)]
    baseline = str(judge.baseline(inputs.roles[0])["name"])
    return replace(judgement, next_steps=next_steps(inputs.model, worst, comparisons, baseline))


def _joined(judgements: Mapping[str, Judgement]) -> Judgement:
    """Pass only if every target passes; with several of them each reason names its target."""
    if len(judgements) == 1:
        return next(iter(judgements.values()))
    failed = {role: each for role, each in judgements.items() if each.verdict == "failed"}
    reasons = [f"{role}: {reason}" for role, each in (failed or judgements).items() for reason in each.reasons]
    remarks = [f"{role}: {remark}" for role, each in judgements.items() for remark in each.remarks]
    if failed and len(failed) < len(judgements):
        remarks.append(f"The other targets passed: {', '.join(role for role in judgements if role not in failed)}.")
    return Judgement("failed" if failed else "passed", tuple(reasons), tuple(remarks))
