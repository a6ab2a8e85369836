"""The picture of a comparison of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from parfocal.qc.comparison.figure import Shown, entitle, label_row, new_panels
from parfocal.qc.comparison.images import Chosen, Loaded
from parfocal.qc.detection.figure import Layer, draw_boxes, in_words, layers
from parfocal.qc.evaluation.inputs import files_below
from parfocal.qc.figures.drawing import draw_scale_bar
from parfocal.qc.figures.objects import window_shown
from parfocal.qc.metrics.objects.detections import match_boxes, outcomes
from parfocal.runtime.datasets.boxes import Boxes, read_boxes
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.prediction.box_files import DETECTIONS
from parfocal.runtime.prediction.detections import DetectionTable, read_detections


@dataclass(frozen=True)
class NamedBoxes:
    """The annotated boxes of an image of `plane` (Y, X) in pixels, and the names of their classes."""

    boxes: Boxes
    names: tuple[str, ...]
    plane: tuple[int, int]


def load_boxes(chosen: Chosen) -> Loaded:
    """Read the annotated boxes of an image, and the tables of detections."""
    annotations = {entry.stem: entry for entry in chosen.dataset.select_annotations(chosen.split, chosen.role)}
    if chosen.stem not in annotations:
        raise chosen.missing()
    lengths = dict(zip(chosen.source.axes, chosen.source.shape, strict=True))
    plane = lengths["Y"], lengths["X"]
    names = chosen.dataset.classes
    boxes = read_boxes(chosen.of_dataset(annotations[chosen.stem].file), names, plane)
    predictions = {}
    for model, (_, result) in chosen.results.items():
        entry = files_below(result, f"{DETECTIONS}/", (".csv",))[chosen.stem]
        predictions[model] = read_detections(chosen.of_prediction(model, entry), f"{chosen.stem} ({model})")
    size = chosen.source.pixel_size_um
    return Loaded(NamedBoxes(boxes, names, plane), predictions, size[0] if size else None)


def boxes_figure(images: Sequence[Shown], parameters: Mapping[str, Any], *, title: str) -> Figure:
    """Source, annotated boxes and each model's boxes coloured by what became of them; a row for each image.

    Targets of the images are `NamedBoxes`, predictions `DetectionTable`; `parameters` are those of the evaluations,
    with the "iou" and the "confidence" that count.
    """
    level, confidence = float(parameters["iou"]), float(parameters["confidence"])
    title = f"{title}; an object is found at IoU {level:g}"
    figure, panels, side = new_panels(images, title, [image.target.plane for image in images])
    present: dict[str, Layer] = {}
    for row, image in zip(panels, images, strict=True):
        target: NamedBoxes = image.target
        window = window_shown(target.plane)
        height, width = (part.stop - part.start for part in window)
        draw_boxes(row[0], image.source, (), window)
        draw_scale_bar(row[0], width, height, image.pixel_size, max(height, width) / side)
        drawn = Layer("annotated", target.boxes.corners, (1.0, 1.0, 1.0))
        draw_boxes(row[1], image.source, (drawn,), window, width=0.9)
        entitle(row[0], "source", "")
        entitle(row[1], "target", f"{len(target.boxes.classes)} objects")
        for axes, (name, table) in zip(row[2:], image.predictions.items(), strict=True):
            names, found = _with_classes(target.names, table)
            matches = match_boxes(target.boxes, found, len(names), (level,))
            outcome = outcomes(target.boxes, found, matches, level, confidence)
            shown = layers(target.boxes, found, outcome, names)
            present |= {layer.title: layer for layer in shown}
            # Names of classes would hide small panels.
            draw_boxes(axes, image.source, [_untold(layer) for layer in shown], window, width=0.9)
            caption = image.captions.get(name, "")
            entitle(axes, name, f"{caption}\n{in_words(outcome.counts)}" if caption else in_words(outcome.counts))
        # Without frames there is no place for a label at the side.
        row[0].set_axis_on()
        row[0].set_xticks([])
        row[0].set_yticks([])
        label_row(row[0], image, None)
    handles = [Line2D([], [], color=layer.colour, linewidth=2.4, linestyle=layer.line) for layer in present.values()]
    figure.legend(handles, list(present), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _with_classes(names: Sequence[str], table: DetectionTable) -> tuple[list[str], Detections]:
    """Return the names of all classes, those that the dataset lacks last, and the detections by their index."""
    every = [*names, *sorted({*table.names} - {*names})]
    classes = np.array([every.index(name) for name in table.names], np.int64)
    return every, Detections(table.corners, classes, table.confidence)


def _untold(layer: Layer) -> Layer:
    return Layer(layer.title, layer.corners, layer.colour, layer.line)
