"""The picture of a comparison of found objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from parfocal.qc.comparison.figure import Shown, entitle, label_row, new_panels
from parfocal.qc.figures.drawing import draw_scale_bar, show_grey
from parfocal.qc.figures.objects import COLOURS, draw_mistakes, draw_outlines, part_shown, plane_shown
from parfocal.qc.metrics.objects.instances import score_instances


def objects_figure(images: Sequence[Shown], parameters: Mapping[str, Any], *, title: str) -> Figure:
    """Source, labelled objects and each model's objects coloured by what became of them; a row for each image.

    Targets and predictions of the images are label images; `parameters` are those of the evaluations, with the "iou"
    that counts as found.
    """
    level = float(parameters["iou"])
    figure, panels, side = new_panels(images, f"{title}; an object is found at IoU {level:g}")
    for row, image in zip(panels, images, strict=True):
        scores = {
            name: score_instances(image.target, prediction, name=f"{image.name} ({name})", levels=[level])
            for name, prediction in image.predictions.items()
        }
        matched = {name: score.overlap.match(level) for name, score in scores.items()}
        first = next(iter(matched))
        plane = plane_shown(image.target, image.predictions[first], matched[first])
        for index, (name, prediction) in enumerate(image.predictions.items()):
            source, target, objects = part_shown(image.source, [image.target, prediction], plane)
            if index == 0:
                show_grey(row[0], source if source.ndim == 2 else source.mean(axis=-1))
                height, width = target.shape
                draw_scale_bar(row[0], width, height, image.pixel_size, max(height, width) / side)
                labels = np.unique(target[target > 0])
                draw_outlines(row[1], source, [(target, labels, (1.0, 1.0, 1.0))])
                entitle(row[1], "target", f"{len(labels)} objects")
            draw_mistakes(row[2 + index], source, target, objects, scores[name], matched[name])
            entitle(row[2 + index], name, image.captions.get(name, ""))
        entitle(row[0], "source", "")
        label_row(row[0], image, plane)
    handles = [Line2D([], [], color=colour, linewidth=3) for colour in COLOURS.values()]
    figure.legend(handles, list(COLOURS), loc="outside lower center", ncols=len(COLOURS), frameon=False, fontsize=9)
    return figure
