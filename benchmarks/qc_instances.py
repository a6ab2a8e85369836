"""Time and memory for judging one image of many objects, and the speed of matching against stardist's own.

    PYTHONPATH=services/qc .venvs/stardist/bin/python benchmarks/qc_instances.py --objects 10000

Objects are discs on a grid, each moved and resized at random; in the prediction some are missing, split or
false positives. Both libraries match at the ten IoU levels 0.5 to 0.95 and must find the same numbers. Then everything
that an evaluation does with an image is done once: all scores, distances of outlines, error map and overlay. Memory is
the largest of the whole process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stardist.matching import matching

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.instances.figure import overlay_figure
from parfocal.qc.metrics.objects.boundaries import boundary_distances
from parfocal.qc.metrics.objects.instances import IOU_LEVELS, score_instances
from parfocal.qc.metrics.objects.outcomes import error_map, outcome_layers

Labels = npt.NDArray[np.int32]
_PITCH = 40


def draw(objects: int, seed: int) -> tuple[Labels, Labels]:
    """Return target and prediction with about so many objects."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(objects)))
    target, prediction = (np.zeros((side * _PITCH,) * 2, np.int32) for _ in range(2))
    y, x = np.mgrid[:_PITCH, :_PITCH]
    free = objects + 1
    for number in range(objects):
        top, left = (place * _PITCH for place in divmod(number, side))
        window = (slice(top, top + _PITCH), slice(left, left + _PITCH))
        for labels in (target, prediction):
            centre, radius = rng.uniform(17, 22, 2), rng.uniform(9, 14)
            disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            labels[window][disc] = number + 1
        fate = rng.random()
        if fate < 0.05:
            prediction[window] = 0
        elif fate < 0.1:
            prediction[window][(prediction[window] > 0) & (y < 19)] = free
            free += 1
    return target, prediction


def main() -> None:
    """Print times, their ratio, and the largest memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target, prediction = draw(options.objects, options.seed)
    print(f"{target.max()} objects, {len(np.unique(prediction)) - 1} predicted, {target.shape} pixels", flush=True)
    begin = time.perf_counter()
    score = score_instances(target, prediction, name="image")
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    theirs: Any = matching(target, prediction, thresh=IOU_LEVELS)
    other = time.perf_counter() - begin
    for level, expected in zip(IOU_LEVELS, theirs, strict=True):
        counts = score.counts[level]
        assert (counts.tp, counts.fp, counts.fn) == (expected.tp, expected.fp, expected.fn), level
    print(f"matching at {len(IOU_LEVELS)} levels: {ours:.2f} s, stardist {other:.2f} s: {other / ours:.1f}x as fast")
    begin = time.perf_counter()
    matches = score.overlap.match(0.5)
    jaccard, distances = score.overlap.aggregated_jaccard(), boundary_distances(target, prediction, matches)
    error_map(target, prediction, outcome_layers(score, matches))
    with tempfile.TemporaryDirectory() as folder:
        source = np.where(target > 0, 900, 100).astype(np.uint16)
        save_png(overlay_figure(source, target, prediction, score, matches, name="image"), Path(folder) / "a.png")
    rest = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"all scores, distances, error map and overlay besides: {rest:.2f} s; largest memory {peak:.2f} GB")
    print(f"F1 {matches.counts.f1:.3f}, AJI {jaccard:.3f}, mean distance of outlines {distances.mean.mean():.2f} px")


if __name__ == "__main__":
    main()
