"""Evaluation of translated images without pairs: as sets beside real ones, and turned back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs
from parfocal.qc.evaluation.room import Sized
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.statistics import statistics
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import centre, save_png
from parfocal.qc.metrics.baselines.histogram import fit_intensity_match
from parfocal.qc.unpaired.figure import Sample, samples_figure
from parfocal.qc.unpaired.inputs import Translated, read_unpaired_inputs, sizes_of_real, test_images, training_images
from parfocal.qc.unpaired.judge import CANNOT_SHOW, DEFINITION, judge
from parfocal.qc.unpaired.metrics import BY_KEY, METRICS, SHOWN
from parfocal.qc.unpaired.parameters import UnpairedParameters, UnpairedThresholds
from parfocal.qc.unpaired.scoring import Real, Sets, channels_last, drawn, score_cycle
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import open_image
from parfocal.runtime.images.scratch import copied
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.report.content import Block, Table, Text
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, direction_note

_SHOWN_IMAGES = 4
# In bytes.
_LARGEST_IN_MEMORY = 2**21


@dataclass(frozen=True)
class ScoredTranslation:
    """One image that was scored."""

    item: Translated
    rows: tuple[ScoreRow, ...]


def evaluate(context: JobContext) -> None:
    """Judge the job's prediction by real images that are no partners of it."""
    run_evaluation(context, UnpairedJudge)


class UnpairedJudge(Judge[UnpairedParameters, Translated, ScoredTranslation]):
    """Images turned into another kind, without pairs."""

    metrics = METRICS
    shown = SHOWN
    headline = SHOWN
    definition = DEFINITION
    # The pyramid of one image: 44 bytes by tracemalloc at 1,500 px a side, as in a job at 4,000.
    pixel_bytes = 50

    def __init__(self, context: JobContext, parameters: UnpairedParameters, folder: Path) -> None:
        super().__init__(context, parameters, folder)
        # Up to 96 images are open at a time.
        self.scratch = replace(self.scratch, most_bytes=_LARGEST_IN_MEMORY)

    def inputs(self) -> Inputs[Translated]:
        """Return the predictions with their inputs."""
        return read_unpaired_inputs(self.context)

    def sized(self, inputs: Inputs[Translated]) -> Sequence[Sized]:
        """Add the real images, and those of the training."""
        return [*inputs.items, *sizes_of_real(self.context, inputs)]

    def prepare(self, inputs: Inputs[Translated]) -> None:
        """Measure the real images, and match the intensities of inputs to theirs."""
        role = inputs.roles[0]
        known = self._read_all(training_images(self.context, inputs, role))
        tests = self._read_all(test_images(self.context, inputs, role))
        self._tests = list(tests.values())
        channels = next(iter(known.values())).shape[2]
        for name, image in (*known.items(), *tests.items()):
            _require_channels(image, channels, name)
        sides = (min(image.shape[:2]) for image in (*self._tests, *map(self._input_of, inputs.items)))
        self._real = Real(list(known.values()), min(sides))
        sources = training_images(self.context, inputs, inputs.source_role)
        self._match = fit_intensity_match((self._read(path, name) for name, path in sources.items()), known.values())
        self._real_scores = [self._real.score(image) for image in self._tests]

    def score(self, item: Translated) -> ScoredTranslation:
        """Score one prediction, and the input with matched intensities beside it."""
        source = self._input_of(item)
        baseline = ScoreRow(item.label, "baseline", self._real.score(self._match.apply(source)))
        with of_prediction(item.label):
            made = self._prediction(item)
            values = self._real.score(made)
            if item.back is not None:
                values |= score_cycle(source, self._read(item.back, f"{item.label} (turned back)"), item.label)
        failed = "prediction is constant" if float(np.ptp(made)) == 0 else None
        return ScoredTranslation(item, (baseline, ScoreRow(item.label, "prediction", values, failed=failed)))

    def collect(self, stream: Iterator[ScoredTranslation], items: Sequence[Translated]) -> list[ScoredTranslation]:
        """Add the distances of whole sets, all of as many images, so that chance is alike."""
        scored = super().collect(stream, items)
        count = min(len(scored), len(self._tests))
        chosen = [scored[number].item for number in drawn(len(scored), count)]
        real = [self._tests[number] for number in drawn(len(self._tests), count)]
        self._sets = Sets(
            real=self._real.distance(real),
            baseline=self._real.distance(self._match.apply(self._input_of(item)) for item in chosen),
            prediction=self._real.distance(self._prediction(item) for item in chosen),
            images=count,
            reference=self._real.count,
        )
        return scored

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Order by distance, the largest first."""
        return (-image.values["distance"],)

    def verdict(self, part: Part[ScoredTranslation], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Say whether anything speaks against the predictions."""
        largest = max(values["distance"] for values in self._real_scores)
        return judge(part.images, self._sets, self.thresholds(), largest_real=largest, unscorable=part.unscorable)

    def thresholds(self) -> UnpairedThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return what the intensities of inputs were matched to."""
        return self._match.describe()

    def note(self, part: Part[ScoredTranslation]) -> str:  # noqa: ARG002
        """Say which way is better, and what is not seen."""
        return (
            f"{direction_note(BY_KEY[key] for key in SHOWN)} The baseline is the input with the distribution of "
            f"intensities of real images. These are means over single images; whole sets follow. {CANNOT_SHOW}"
        )

    def headlines(self, part: Part[ScoredTranslation], summary: EvaluationSummary) -> dict[str, float]:
        """Add the distances of sets and the cycle."""
        sets = self._sets
        found = super().headlines(part, summary) | {
            "set_distance_real": sets.real,
            "set_distance_baseline": sets.baseline,
            "set_distance_prediction": sets.prediction,
        }
        ours = summary.metrics["prediction"]
        return found | {f"prediction_{key}": ours[key].mean for key in _CYCLE if key in ours}

    def details(self, part: Part[ScoredTranslation]) -> dict[str, Any]:  # noqa: ARG002
        """Return the distances of sets, and those of single real images."""
        distances = [values["distance"] for values in self._real_scores]
        return {"sets": self._sets.describe(), "real_images": distances}

    def draw(self, part: Part[ScoredTranslation], summary: EvaluationSummary, suffix: str) -> None:  # noqa: ARG002
        """Draw the worst image and others between it and the best."""
        ranked = sorted(part.images, key=self.rank)
        places = np.unique(np.linspace(0, len(ranked) - 1, _SHOWN_IMAGES).round().astype(int))
        samples = [self._sample(part.of(ranked[place].image).item, ranked[place]) for place in places]
        real = [_shown(image) for image in self._tests[: len(samples)]]
        save_png(samples_figure(samples, real), self.folder / f"figure{suffix}.png")

    def tables(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield the distances of whole sets, and what became of images turned back."""
        yield _sets_table(summary.details["sets"], summary.details["real_images"])
        ours = summary.metrics["prediction"]
        rows = [(BY_KEY[key].heading, BY_KEY[key].number(ours[key].mean)) for key in _CYCLE if key in ours]
        if rows:
            columns = ("Inputs turned into the other kind and back", "Mean over images")
            yield Table(columns, rows, frozenset(columns[1:]))
        else:
            yield Text("The prediction holds no images turned back, so that the cycle was not scored.")

    def _prediction(self, item: Translated) -> NDArray[Any]:
        image = self._read(item.prediction, f"{item.label} (prediction)")
        _require_channels(image, self._real.channels, f"{item.label} (prediction)")
        return image

    def _sample(self, item: Translated, score: ImageScore) -> Sample:
        source = _shown(self._input_of(item))
        panels = {"input": source, "matched intensities": self._match.apply(source)}
        panels["prediction"] = _shown(self._prediction(item))
        if item.back is not None:
            panels["turned back"] = _shown(self._read(item.back, f"{item.label} (turned back)"))
        return Sample(item.label, score.values["distance"], panels, item.pixel_size)

    def _read(self, path: Path, name: str) -> NDArray[Any]:
        return channels_last(open_image(path, self.scratch), name)

    def _read_all(self, paths: Mapping[str, Path]) -> dict[str, NDArray[Any]]:
        return {name: self._read(path, name) for name, path in paths.items()}

    def _input_of(self, item: Translated) -> NDArray[Any]:
        return self._read(item.source, item.label)


_CYCLE = ("cycle_correlation", "cycle_error")


def _shown(image: NDArray[Any]) -> NDArray[Any]:
    """Return the centre of an image (Y, X, channels), in memory."""
    return copied(image[centre(*image.shape[:2])])


def _require_channels(image: NDArray[Any], channels: int, name: str) -> None:
    if image.shape[2] != channels:
        raise InvalidInputError(
            f"{name} has {image.shape[2]} channels, and the first real image of the training has {channels}. Compare "
            "images with equal channels."
        )


def _sets_table(sets: Mapping[str, Any], real: Sequence[float]) -> Table:
    number, single = BY_KEY["distance"].number, statistics(real)
    rows = [
        ("Other real images", number(sets["real"]), number(single.mean)),
        ("Prediction", number(sets["prediction"]), ""),
        ("Matched intensities", number(sets["baseline"]), ""),
    ]
    columns = ("Distance from real images of the training", "As a set", "Single images, mean")
    caption = f"Sets of {sets['images']} images, compared with {sets['reference']}. The lower, the more alike."
    return Table(columns, rows, frozenset(columns[1:]), caption)
