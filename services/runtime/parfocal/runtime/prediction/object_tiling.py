"""Objects found in images of any size: blocks that overlap, and each object once.

An object that a block sees whole belongs to the block whose core holds the middle of its bounding box, and is taken
from there with all its pixels. An object that is larger than the overlap is cut in every block that sees it: its parts
are the same object where two blocks agree on their pixels in the slab that both see, and are united.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.images.scratch import Scratch, release
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outlines import trace_outlines
from parfocal.runtime.methods.outputs import Window
from parfocal.runtime.methods.steps import AllSteps, Steps

Find = Callable[[Window, Callable[[int, int], None]], Objects]
"""Returns the objects in a window of an image; the function is to be called with the tiles done and all of them."""

BLOCK_PIXELS: Final = 2**23
"""The most pixels in which objects are looked for at a time; a smaller image is a single block."""
MARGINS: Final = {2: 192, 3: 48}
"""How far blocks see beyond their core, in pixels, by the number of dimensions.

Half of it and more is what networks look at around an object, the rest is for its radius.
"""
# Labels take 8 bytes, the rest is for tables and outlines where every other pixel is an object.
_MOST_BYTES_OF_PIXEL: Final = 128
_STEP: Final = 64  # blocks begin at multiples of it, so that pooling sees the same groups of pixels as in the whole
_TOLERANCE: Final = 4  # pixels by which cores reach into each other, for two blocks may see a middle differently
_SAME: Final = 0.5  # of the pixels of the smaller of two objects, for both to be the same


@dataclass(frozen=True)
class Block:
    """A window of an image, and the part of it that is this block's own.

    Attributes
    ----------
    window
        What the block sees.
    core
        First and last pixel, the last one not included, along each axis: cores cover the image once.
    inner
        Along each axis, whether the image goes on before and behind the window.
    """

    window: Window
    core: tuple[tuple[int, int], ...]
    inner: tuple[tuple[bool, bool], ...]


@dataclass
class _Part:
    """An object as a block sees it that does not answer for it, or cuts it.

    `place` is where its mask lies in the image, `own` are those of its pixels that lie in the core of the block.
    """

    block: Block
    place: Window
    mask: NDArray[np.bool_]
    own: NDArray[np.bool_]
    probability: float
    class_probability: NDArray[np.float32] | None
    spline: NDArray[np.float32] | None


def find_in_blocks(
    find: Find,
    shape: Sequence[int],
    report: Callable[[int, int], None] | None = None,
    scratch: Scratch | None = None,
    *,
    steps: Steps | None = None,
    block_pixels: int = BLOCK_PIXELS,
    margin: int | None = None,
) -> Objects:
    """Return the objects in an image of any size.

    Parameters
    ----------
    find
        Finds the objects in a window.
    shape
        Spatial shape of the image.
    report
        Called with what is done of the image and all of it; may raise to end the prediction.
    scratch
        Where the label image lies; None: in memory.
    steps
        What looks for objects in the blocks where several jobs share them; None: this function.
    block_pixels, margin
        The most pixels of a block, and how far it sees beyond its core; see `BLOCK_PIXELS` and `MARGINS`.

    Returns
    -------
    Objects
        With labels in int32. Of a single block, what `find` returns.
    """
    planned = list(plan_blocks(shape, block_pixels, margin))

    def look(number: int) -> dict[str, NDArray[Any]]:
        def on_tile(done: int, total: int) -> None:
            if report is not None:
                report(number * total + done, len(planned) * total)

        return find(planned[number].window, on_tile).to_arrays()

    plan = " ".join("x".join(f"{along.start}-{along.stop}" for along in block.window) for block in planned)
    pixels = max(math.prod(along.stop - along.start for along in block.window) for block in planned)
    steps = steps or AllSteps()
    blocks = map(Objects.from_arrays, steps.run(plan, len(planned), look, most_bytes=pixels * _MOST_BYTES_OF_PIXEL))
    if len(planned) == 1:
        return next(blocks)
    found: _Found | None = None
    for block, objects in zip(planned, blocks, strict=True):
        # Not before: a job that does a part of the blocks never needs it.
        found = found or _Found((scratch or Scratch()).zeros(shape, np.int32))
        found.add(block, objects)
    assert found is not None
    found.unite()
    return found.objects()


def plan_blocks(shape: Sequence[int], block_pixels: int = BLOCK_PIXELS, margin: int | None = None) -> Iterator[Block]:
    """Yield the blocks of an image in C order, as few and as equal as possible; see `find_in_blocks`."""
    margin = MARGINS[len(shape)] if margin is None else margin
    counts = [1] * len(shape)

    def lengths() -> list[int]:
        return [-(-(length + (count - 1) * 2 * margin) // count) for length, count in zip(shape, counts, strict=True)]

    while math.prod(lengths()) > block_pixels:
        longest = max(range(len(shape)), key=lambda axis: lengths()[axis])
        counts[longest] += 1
        if lengths()[longest] <= 4 * margin:
            break
    axes = [_along(length, count, size, margin) for length, count, size in zip(shape, counts, lengths(), strict=True)]
    for place in itertools.product(*axes):
        windows, cores, inner = zip(*place, strict=True)
        yield Block(windows, cores, inner)


def _along(length: int, count: int, size: int, margin: int) -> list[tuple[slice, tuple[int, int], tuple[bool, bool]]]:
    """Return window, core and where the image goes on, for the blocks along one axis."""
    if count == 1:
        return [(slice(0, length), (0, length), (False, False))]
    step = max(1, -(-(size - 2 * margin) // min(_STEP, margin)) * min(_STEP, margin))
    starts = [start for start in range(0, length, step) if start == 0 or start + 2 * margin < length]
    stops = [min(start + step + 2 * margin, length) for start in starts[:-1]] + [length]
    seams = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    return [
        (slice(start, stop), core, (start > 0, stop < length))
        for start, stop, core in zip(starts, stops, itertools.pairwise(seams), strict=True)
    ]


@dataclass
class _Found:
    """The objects found so far."""

    labels: NDArray[np.int32]
    sizes: list[int] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    outlines: list[NDArray[np.float32]] = field(default_factory=list)
    class_probability: list[NDArray[np.float32]] = field(default_factory=list)
    splines: list[NDArray[np.float32]] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)
    outlined: bool = False

    def add(self, block: Block, objects: Objects) -> None:
        """Take the objects that a block answers for and sees whole, and keep for later what it has of others."""
        self.outlined = self.outlined or len(objects.outlines) > 0
        begin = [along.start for along in block.window]
        for number, box in enumerate(ndimage.find_objects(np.asarray(objects.labels))):
            if box is None:  # covered by others
                continue
            mask = objects.labels[box] == number + 1
            place = tuple(
                slice(along.start + first, along.stop + first) for along, first in zip(box, begin, strict=True)
            )
            if _cut(block, place) or not _mine(block, place):
                self._keep(block, place, mask, objects, number)
            elif not self._known(place, mask):
                self._paint(place, mask)
                self._describe(objects, number, begin)
        release(self.labels)

    def unite(self) -> None:
        """Take the objects that nobody has seen whole who answers for them, each once."""
        parts = [part for part in self.parts if not self._covered(part)]
        groups = list(range(len(parts)))

        def root(index: int) -> int:
            while groups[index] != index:
                index = groups[index]
            return index

        for first, second in itertools.combinations(range(len(parts)), 2):
            if _same(parts[first], parts[second]):
                groups[root(second)] = root(first)
        for index in range(len(parts)):
            if root(index) == index:
                self._add_united([part for number, part in enumerate(parts) if root(number) == index])
        self.parts.clear()
        release(self.labels)

    def objects(self) -> Objects:
        """Return all objects."""
        return Objects(
            self.labels,
            np.array(self.probability, np.float32),
            self.outlines if self.outlined else (),
            np.stack(self.class_probability) if self.class_probability else None,
            np.stack(self.splines) if self.splines else None,
        )

    def _known(self, place: Window, mask: NDArray[np.bool_]) -> bool:
        """Return whether an earlier block has found the object."""
        there = self.labels[place][mask]
        numbers, counts = np.unique(there[there > 0], return_counts=True)
        size = int(mask.sum())
        return any(
            count >= _SAME * min(size, self.sizes[number - 1])
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        )

    def _paint(self, place: Window, mask: NDArray[np.bool_]) -> None:
        region = self.labels[place]
        region[mask & (region == 0)] = len(self.sizes) + 1
        self.sizes.append(int(mask.sum()))

    def _describe(self, objects: Objects, number: int, begin: Sequence[int]) -> None:
        self.probability.append(float(objects.probability[number]))
        if len(objects.outlines):
            self.outlines.append((objects.outlines[number] + np.array(begin)).astype(np.float32))
        if objects.class_probability is not None:
            self.class_probability.append(objects.class_probability[number])
        if objects.splines is not None:
            self.splines.append((objects.splines[number] + np.array(begin)).astype(np.float32))

    def _keep(self, block: Block, place: Window, mask: NDArray[np.bool_], objects: Objects, number: int) -> None:
        """Keep what a block has of an object, unless none of it lies in the core."""
        own = mask.copy()
        for axis, (along, (low, high)) in enumerate(zip(place, block.core, strict=True)):
            outside = np.ones(own.shape[axis], bool)
            outside[max(0, low - along.start) : max(0, high - along.start)] = False
            own[(slice(None),) * axis + (outside,)] = False
        if not own.any():
            return
        begin = np.array([along.start for along in block.window])
        self.parts.append(
            _Part(
                block,
                place,
                mask,
                own,
                float(objects.probability[number]),
                None if objects.class_probability is None else objects.class_probability[number],
                None if objects.splines is None else (objects.splines[number] + begin).astype(np.float32),
            )
        )

    def _covered(self, part: _Part) -> bool:
        """Return whether most of an object, or of what its block would add of it, is one that another block has."""
        taken = self.labels[part.place] > 0
        return any(int((taken & mask).sum()) >= _SAME * int(mask.sum()) for mask in (part.mask, part.own))

    def _add_united(self, parts: Sequence[_Part]) -> None:
        """Add one object that is seen in several parts; what is said of it are means, weighted by pixels."""
        label = len(self.sizes) + 1
        size = 0
        for part in parts:
            region = self.labels[part.place]
            free = part.own & (region == 0)
            region[free] = label
            size += int(free.sum())
        if not size:
            return
        self.sizes.append(size)
        weights = [np.count_nonzero(part.mask) for part in parts]
        self.probability.append(float(np.average([part.probability for part in parts], weights=weights)))
        if known := [part.class_probability for part in parts if part.class_probability is not None]:
            self.class_probability.append(np.average(known, axis=0, weights=weights).astype(np.float32))
        if self.outlined:
            corner = [min(part.place[axis].start for part in parts) for axis in range(self.labels.ndim)]
            end = [max(part.place[axis].stop for part in parts) for axis in range(self.labels.ndim)]
            window = tuple(slice(low, high) for low, high in zip(corner, end, strict=True))
            traced = trace_outlines((self.labels[window] == label).astype(np.int32))
            self.outlines.append((traced[0] + np.array(corner)).astype(np.float32))
        if (spline := parts[int(np.argmax(weights))].spline) is not None:
            # There is no spline of the whole: that of the largest part says at least where it is.
            self.splines.append(spline)


def _cut(block: Block, place: Window) -> bool:
    """Return whether an object reaches a border of its block behind which the image goes on."""
    return any(
        (before and along.start <= whole.start) or (behind and along.stop >= whole.stop)
        for along, whole, (before, behind) in zip(place, block.window, block.inner, strict=True)
    )


def _mine(block: Block, place: Window) -> bool:
    """Return whether the middle of an object lies in the core of a block, or just beside it."""
    return all(
        low - _TOLERANCE <= (along.start + along.stop) / 2 < high + _TOLERANCE
        for along, (low, high) in zip(place, block.core, strict=True)
    )


def _same(first: _Part, second: _Part) -> bool:
    """Return whether two blocks see the same object, by the pixels of both in the slab that both see."""
    if first.block is second.block:
        return False
    slab = [
        (max(a.start, b.start), min(a.stop, b.stop))
        for a, b in zip(first.block.window, second.block.window, strict=True)
    ]
    meeting = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first.place, second.place, strict=True)]
    if any(low >= high for low, high in meeting):
        return False
    shared = int(np.count_nonzero(_within(first, meeting) & _within(second, meeting)))
    smaller = min(int(np.count_nonzero(_within(part, slab))) for part in (first, second))
    return shared > 0 and shared >= _SAME * smaller


def _within(part: _Part, limits: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Return the mask of a part inside limits of the image."""
    return part.mask[
        tuple(
            slice(max(0, low - along.start), max(0, high - along.start))
            for along, (low, high) in zip(part.place, limits, strict=True)
        )
    ]
