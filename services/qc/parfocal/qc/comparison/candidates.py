"""Inputs of a comparison: published evaluations, checked to be of the same test, and laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation
from parfocal.runtime.store.evaluations import METRICS_FILE, SUMMARY_FILE, EvaluationSummary, Metric
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.scores import read_scores
from parfocal.runtime.store.store import Location, Store

_SHOWN: Final = 5
_LEAST: Final = 2


@dataclass(frozen=True)
class Evaluation:
    """One published evaluation: its place, manifest and summary, and the scores of its images.

    `scores` are by kind ("prediction", "input", "baseline"), image (as named in the table) and metric, stacks as means
    over their slices.
    """

    uri: str
    name: str
    manifest: ResultManifest
    summary: EvaluationSummary
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def prediction_uri(self) -> str:
        """The prediction that was scored."""
        return self.manifest.images[0].outputs["prediction"] if self.manifest.images else ""

    def images(self, target: str) -> dict[str, str]:
        """Return the digests of the sources of a target's images that were scored, by name."""
        labels = ((*self.split(image.input), image.input_sha256) for image in self.manifest.images if not image.reason)
        return {stem: digest for role, stem, digest in labels if role == target}

    def scores_of(self, kind: str, target: str) -> dict[str, Mapping[str, float]]:
        """Return the scores of a kind for one target, by name of the image; empty if the kind was not scored."""
        labels = ((*self.split(label), values) for label, values in self.scores.get(kind, {}).items())
        return {stem: values for role, stem, values in labels if role == target}

    def split(self, label: str) -> tuple[str, str]:
        """Return target and name of an image, which evaluations of several targets write as one."""
        role, slash, stem = label.rpartition("/")
        return (role, stem) if slash else (self.manifest.targets[0], stem)


@dataclass(frozen=True)
class Candidate:
    """The prediction of a model, or a reference that all evaluations share; each has a column of its own."""

    name: str
    kind: Literal["model", "input", "baseline"]
    evaluation: Evaluation


@dataclass(frozen=True)
class TargetScores:
    """The scores of all candidates on the images of one target.

    Attributes
    ----------
    target
        The dataset's role.
    images
        Names of the images, in order.
    scores
        By key of the metric and name of the candidate: scores, float64 of shape (images,).
    metrics
        By key: description of each metric.
    """

    target: str
    images: tuple[str, ...]
    scores: Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
    metrics: Mapping[str, Metric]


def read_evaluation(store: Store, uri: str, metrics: Sequence[str]) -> Evaluation:
    """Read one published evaluation.

    Raises
    ------
    NotFoundError, InvalidInputError
        There is none at `uri`, it is no evaluation, or its table lacks one of the metrics.
    """
    place = Location.parse(uri)
    manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
    if manifest.kind != "evaluation":
        raise InvalidInputError(
            f"{uri} is a {manifest.kind}, not an evaluation. Have the prediction scored first (`parfocal evaluate`).",
            [Violation("comparison.evaluation_uris", f"{uri} is not an evaluation")],
        )
    for name in (SUMMARY_FILE, METRICS_FILE):
        if manifest.entry(name) is None:
            raise NotFoundError(f"The evaluation {uri} has no {name}. Evaluate again.")
    summary = EvaluationSummary.parse(store.read(manifest.place_of(place, SUMMARY_FILE)), uri)
    text = store.read(manifest.place_of(place, METRICS_FILE)).decode("utf-8")
    scores = read_scores(text, metrics, f"{METRICS_FILE} of {uri}")
    return Evaluation(uri, _name(manifest, uri), manifest, summary, scores)


def check_same_test(evaluations: Sequence[Evaluation], spec: v1.ComparisonSpec, scoring: Sequence[str]) -> None:
    """Raise InvalidInputError, saying what differs, unless all evaluations are of one test.

    That is: another evaluation each, the method and dataset of the comparison, one split, one definition of the
    scores, the same values of the parameters `scoring`, and for every shared target the same images and sources.
    """
    if len({each.uri for each in evaluations}) < max(_LEAST, len(evaluations)):
        raise InvalidInputError(
            "A comparison requires at least two evaluations, all different. Name further models or evaluations."
        )
    first = evaluations[0]
    if spec.dataset_uri and spec.dataset_uri != first.manifest.input_uri:
        raise _differ(
            f"the comparison is about {spec.dataset_uri}, {first.name} was scored on {first.manifest.input_uri}"
        )
    for each in evaluations:
        if each.manifest.method != spec.method:
            raise _differ(
                f"{each.name} was judged by {each.manifest.method!r}, and the comparison is of {spec.method!r}"
            )
    facts: tuple[tuple[str, Callable[[Evaluation], Any]], ...] = (
        ("dataset", lambda each: each.manifest.input_uri),
        ("split", lambda each: each.manifest.split),
        *((name, lambda each, name=name: each.manifest.parameters.get(name)) for name in scoring),
    )
    for other in evaluations[1:]:
        for what, fact in facts:
            if fact(other) != fact(first):
                raise _differ(f"{first.name} has the {what} {fact(first)}, {other.name} the {what} {fact(other)}")
        if other.summary.definition != first.summary.definition:
            raise _differ(
                f"{first.name} and {other.name} were scored by different definitions, one of them by another "
                "version of Parfocal; evaluate that one again (`parfocal compare --again` does)"
            )
        for target in shared_targets(evaluations):
            problems = list(_image_problems(first, other, target))
            if problems:
                more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
                raise _differ(f"their test images are not the same: {'; '.join(problems[:_SHOWN])}{more}")


def shared_targets(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the targets that all evaluations judged; raise InvalidInputError if there is none."""
    shared = [
        role for role in evaluations[0].manifest.targets if all(role in each.manifest.targets for each in evaluations)
    ]
    if not shared:
        known = "; ".join(f"{each.name}: {', '.join(each.manifest.targets)}" for each in evaluations)
        raise _differ(f"they have no target in common ({known})")
    return shared


def choose_candidates(
    evaluations: Sequence[Evaluation], kinds: Iterable[Literal["input", "baseline"]]
) -> tuple[list[Candidate], list[str]]:
    """Return the models and those references in which the evaluations agree, and remarks on what is left out."""
    names = _distinct(evaluations)
    candidates = [Candidate(name, "model", each) for name, each in zip(names, evaluations, strict=True)]
    remarks = []
    for kind in kinds:
        name = str(evaluations[0].summary.baseline["name"]) if kind == "baseline" else "input"
        if all(_agree(kind, evaluations[0], each, shared_targets(evaluations)) for each in evaluations):
            candidates.append(Candidate(name, kind, evaluations[0]))
        else:
            why = ", because it was fitted to the images each model was trained on" if kind == "baseline" else ""
            remarks.append(
                f"The evaluations do not agree on the scores of the {name}{why}, so that it is not compared."
            )
    return candidates, remarks


def lay_side_by_side(candidates: Sequence[Candidate], metrics: Sequence[str]) -> list[TargetScores]:
    """Return the scores of all candidates, for each target that they share, over the same images in one order."""
    evaluations = [each.evaluation for each in candidates]
    first = evaluations[0]
    sides = []
    for target in shared_targets(evaluations):
        images = tuple(sorted(first.images(target)))
        scores = {
            metric: {each.name: _column(each, target, images, metric) for each in candidates} for metric in metrics
        }
        described = {metric: first.summary.metric(metric) for metric in metrics}
        sides.append(TargetScores(target, images, scores, described))
    return sides


def _column(candidate: Candidate, target: str, images: Sequence[str], metric: str) -> npt.NDArray[np.float64]:
    kind = "prediction" if candidate.kind == "model" else candidate.kind
    scores = candidate.evaluation.scores_of(kind, target)
    missing = [stem for stem in images if stem not in scores]
    if missing:
        raise InvalidInputError(
            f"metrics.csv of {candidate.evaluation.uri} has no {kind} of {missing[0]}. Evaluate again."
        )
    without = [stem for stem in images if metric not in scores[stem]]
    if without:
        raise InvalidInputError(
            f"{without[0]} has no {metric} for the {kind} in {candidate.evaluation.uri}. Compare other metrics."
        )
    return np.array([scores[stem][metric] for stem in images])


def _image_problems(first: Evaluation, other: Evaluation, target: str) -> Iterable[str]:
    ours, theirs = first.images(target), other.images(target)
    for has, lacks, names in ((first, other, ours.keys() - theirs.keys()), (other, first, theirs.keys() - ours.keys())):
        for name in sorted(names):
            yield f"{name} was scored for {has.name}, not for {lacks.name}"
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            yield f"{name} of {first.name} and {name} of {other.name} are different source images"


def _agree(kind: str, first: Evaluation, other: Evaluation, targets: Iterable[str]) -> bool:
    for target in targets:
        ours, theirs = first.scores_of(kind, target), other.scores_of(kind, target)
        if not ours or ours.keys() != theirs.keys():
            return False
        for stem, values in ours.items():
            if values.keys() != theirs[stem].keys():
                return False
            if not all(np.isclose(value, theirs[stem][metric], rtol=1e-6) for metric, value in values.items()):
                return False
    return True


def _distinct(evaluations: Sequence[Evaluation]) -> list[str]:
    names = [each.name for each in evaluations]
    return [f"{each.name} ({each.manifest.job})" if names.count(each.name) > 1 else each.name for each in evaluations]


def _name(manifest: ResultManifest, uri: str) -> str:
    """Return "model:version", or the prediction's own name where no model is known."""
    if manifest.model_uri:
        place = Location.parse(manifest.model_uri)
        return f"{place.parent.name}:{place.name}"
    outputs = manifest.images[0].outputs if manifest.images else {}
    return Location.parse(outputs.get("prediction", uri)).name


def _differ(what: str) -> InvalidInputError:
    text = f"The evaluations cannot be compared: {what}."
    return InvalidInputError(text, [Violation("comparison.evaluation_uris", text)])
