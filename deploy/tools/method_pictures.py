"""Draw the example pictures of the method chooser: what goes in on the left, what should come out on the right.

All of it is simulated here, from fixed seeds. Run by hand in the orchestrator's environment after a change; the
pictures are committed in the portal's static files, one for each task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

STATIC = Path(__file__).resolve().parents[2] / "orchestrator" / "parfocal" / "portal" / "static" / "tasks"
SIDE, GAP = 168, 4
# Okabe and Ito's palette, as in the viewer.
COLOURS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]]
)
Grey = NDArray[np.float64]


def cells(rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a label image (Y, X) of about thirty roundish objects, some of which touch."""
    y, x = np.indices((SIDE, SIDE))
    labels = np.zeros((SIDE, SIDE), np.int64)
    for number in range(1, 45):
        row, column = rng.uniform(8, SIDE - 8, 2)
        first, second, turn = *rng.uniform(9, 14, 2), rng.uniform(0, np.pi)
        along = (y - row) * np.cos(turn) + (x - column) * np.sin(turn)
        across = (x - column) * np.cos(turn) - (y - row) * np.sin(turn)
        inside = (along / first) ** 2 + (across / second) ** 2 <= 1
        if (labels[inside] > 0).mean() < 0.12:
            labels[inside & (labels == 0)] = number
    return labels


def stained(labels: NDArray[np.int64], rng: np.random.Generator) -> Grey:
    """Return a fluorescence image of objects, 0 to 1."""
    bright = rng.uniform(0.5, 1, int(labels.max()) + 1)
    bright[0] = 0.04
    texture = ndimage.gaussian_filter(rng.normal(1, 1.4, labels.shape), 2)
    return np.clip(ndimage.gaussian_filter(bright[labels] * texture, 1.2), 0, None)


def fibres(rng: np.random.Generator) -> Grey:
    """Return an image of thin curved lines, 0 to 1."""
    drawn = np.zeros((SIDE, SIDE))
    for _ in range(26):
        place, direction = rng.uniform(0, SIDE, 2), rng.uniform(0, 2 * np.pi)
        for _ in range(400):
            direction += rng.normal(0, 0.04)
            place = place + 0.6 * np.array([np.sin(direction), np.cos(direction)])
            row, column = place.astype(int)
            if 0 <= row < SIDE and 0 <= column < SIDE:
                drawn[row, column] = 1
    drawn = ndimage.gaussian_filter(drawn, 1.1)
    return drawn / drawn.max()


def grey(values: Grey) -> NDArray[np.uint8]:
    """Return intensities as colours, from the darkest to nearly the brightest."""
    low, high = np.percentile(values, (0.5, 99.7))
    shown = (255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)
    return np.repeat(shown[..., None], 3, -1)


def coloured(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return labels in the colours of the viewer, on black."""
    return np.where(labels[..., None] > 0, COLOURS[labels % len(COLOURS)], 0).astype(np.uint8)


def save(task: str, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
    """Write the picture of a task."""
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    Image.fromarray(np.hstack([before, gap, after])).quantize(96).save(STATIC / f"{task}.png", optimize=True)


def main() -> None:
    """Draw all pictures."""
    STATIC.mkdir(exist_ok=True)
    rng = np.random.default_rng(7)
    labels = cells(rng)
    nuclei = stained(labels, rng)
    noisy = rng.poisson(60 * nuclei) + rng.normal(0, 2, nuclei.shape)
    clean = fibres(rng)
    save("restoration", grey(rng.poisson(5 * clean) + rng.normal(0, 0.7, clean.shape)), grey(clean))
    save("instance_segmentation", grey(noisy), coloured(labels))
    edge = (labels > 0) & (ndimage.grey_erosion(labels, size=5) != labels)
    save("semantic_segmentation", grey(noisy), coloured(np.where(edge, 2, labels > 0)))
    boxed = grey(noisy)
    for part in ndimage.find_objects(labels):
        if part is not None:
            rows, columns = part
            top, bottom, left, right = rows.start, rows.stop - 1, columns.start, columns.stop - 1
            boxed[[top, bottom], left : right + 1] = boxed[top : bottom + 1, [left, right]] = COLOURS[1]
    save("detection", grey(noisy), boxed)
    smeared = ndimage.gaussian_filter(clean, 6)
    points = rng.random(clean.shape) < 0.5 * clean
    save(
        "localisation", grey(rng.poisson(400 * smeared).astype(float)), grey(ndimage.gaussian_filter(points * 1.0, 0.6))
    )
    # Light that passed through: bright rims, dark insides.
    relief = ndimage.gaussian_filter((labels > 0) * 1.0, 1.5)
    through = (
        relief
        - 1.4 * ndimage.gaussian_filter(relief, 3)
        + ndimage.gaussian_filter(rng.normal(0, 0.25, relief.shape), 1)
    )
    save("translation", grey(through), grey(nuclei))


if __name__ == "__main__":
    main()
