"""The images that people are working on now, in memory: what is kept of them are the operations in the catalogue.

An image that nobody has open is put together again from what was published and the operations that were saved. So a
browser, a tablet or the portal itself may go away at any time.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.client import Client
from parfocal.portal.annotate.boxes import BoxEditor, DrawnBox
from parfocal.portal.annotate.fields import Field
from parfocal.portal.annotate.labels import LabelEditor, Labels, Window
from parfocal.portal.annotate.operations import parse, to_text
from parfocal.portal.annotate.rebasing import Seen, can_follow
from parfocal.runtime.datasets.annotations.voc import parse_voc
from parfocal.runtime.datasets.classes import object_classes
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.errors import ConflictError, InvalidInputError
from parfocal.runtime.images.files import Image, ImageLimits, PixelSize, inspect_image, read_image, write_image
from parfocal.runtime.images.pyramid import FORMAT, TILE, Pyramid, encode_tile, level_shapes, tile_shape
from parfocal.runtime.prediction.detections import read_detections

_MOST_OPEN: Final = 12
_AT_ONCE: Final = 16
_MOST_BYTES: Final = 2**31
_LARGEST_PATCH: Final = 2**20
_PLANES: Final = "TZYX"


@dataclass
class Opened:
    """One image of a draft with its editor. `lock` is held by whoever reads or changes it.

    Attributes
    ----------
    editor
        The labels or boxes as the applied operations make them.
    axes, pixel_size
        Axes of the label image, of ``TZYX``, and the size of its pixels.
    revision
        The one in the catalogue that the editor stands for.
    kept
        All operations that are kept as text; those after the applied ones were undone.
    source
        The image itself as tiles, where no job has made them.
    """

    editor: LabelEditor | BoxEditor
    axes: str
    shape: tuple[int, ...]
    pixel_size: PixelSize | None
    revision: int = 0
    kept: list[str] = field(default_factory=list)
    source: dict[str, bytes] | None = None
    source_info: dict[str, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def labels(self) -> LabelEditor:
        """The editor of labels; raise InvalidInputError where boxes are drawn."""
        if not isinstance(self.editor, LabelEditor):
            raise InvalidInputError("Boxes are drawn in this draft, not labels.")
        return self.editor

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        labels = self.editor.labels.nbytes if isinstance(self.editor, LabelEditor) else 0
        return labels + sum(map(len, (self.source or {}).values()))

    def bring_to(self, state: v1.DraftImage) -> list[Window | None]:
        """Make the editor stand for a state of the catalogue; return the windows of labels that changed."""
        wanted = list(state.operations)[: state.applied]
        applied = self.kept[: self.editor.steps]
        same = 0
        while same < min(len(wanted), len(applied)) and wanted[same] == applied[same]:
            same += 1
        windows: list[Window | None] = [self.editor.undo() for _ in range(self.editor.steps - same)]
        windows += [self.editor.apply(parse(text)) for text in wanted[same:]]
        self.kept, self.revision = list(state.operations), state.revision
        return windows

    def info(self) -> dict[str, Any]:
        """Return what the viewer is told of the label image, see `Pyramid.info`."""
        labels = self.labels.labels
        times, depth, height, width = labels.shape
        size = self.pixel_size
        return {
            "format": FORMAT,
            "state": "ready",
            "digest": hashlib.sha256(f"{id(self)} {self.revision}".encode()).hexdigest(),
            "kind": "labels",
            "axes": self.axes,
            "shape": list(self.shape),
            "dtype": "uint32",
            "tile_dtype": "uint32",
            "tile": TILE,
            "sizes": {"t": times, "c": 1, "z": depth, "y": height, "x": width},
            "levels": [list(shape) for shape in level_shapes(height, width)],
            "pixel_size_um": None if size is None else [size.x, size.y, size.z],
            "rgb": False,
            "channels": [
                {"name": "", "minimum": 0, "maximum": 1, "percentiles": {"0.1": 0, "99.9": 1}, "histogram": []}
            ],
        }

    def tile(self, level: int, t: int, z: int, row: int, column: int) -> Labels | None:
        """Return one tile of the label image as it is now; None where there is none."""
        labels = self.labels.labels
        times, depth, height, width = labels.shape
        if not (0 <= t < times and 0 <= z < depth and tile_shape(height, width, level, row, column)):
            return None
        plane = labels[t, z, :: 2**level, :: 2**level]
        part = plane[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        return np.ascontiguousarray(part)

    def image(self) -> Image:
        """Return the label image in its own axes, in the smallest type that has room for its numbers."""
        labels = self.labels.labels.reshape(self.shape)
        narrow = np.uint16 if int(labels.max(initial=0)) < 2**16 else np.uint32
        return Image(labels.astype(narrow), self.axes, self.pixel_size)

    def class_image(self) -> Image:
        """Return the class of each object inside it, 0 where it has none."""
        editor = self.labels
        drawn = np.zeros(editor.labels.shape, np.uint8)
        if editor.classes:
            numbers = np.array(sorted(editor.classes), np.uint32)
            values = np.array([editor.classes[int(number)] for number in numbers], np.uint8)
            place = np.searchsorted(numbers, editor.labels).clip(max=len(numbers) - 1)
            drawn[...] = np.where(numbers[place] == editor.labels, values[place], 0)
        return Image(drawn.reshape(self.shape), self.axes, self.pixel_size)


class Desk:
    """Opens images of drafts and applies what people do to them. Safe to use from several threads."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str, str], Opened] = OrderedDict()
        # An image is read once, whoever asks for it at the same moment.
        self._opening = [threading.Lock() for _ in range(_AT_ONCE)]

    def opened(self, client: Client, draft: v1.Draft, place: Field) -> Opened:
        """Return an image as the catalogue has it now; it is read where nobody has it open.

        Raises
        ------
        InvalidInputError
            The image or its labels cannot be used.
        """
        key = (client.project, draft.draft, place.name)
        with self._opening[hash(key) % _AT_ONCE]:
            state = client.catalog.draft_image(draft.draft, place.name)
            with self._lock:
                known = self._open.pop(key, None)
            if known is None:
                known = self._read(client, draft, place)
            with known.lock:
                if known.revision != state.revision or known.revision == 0:
                    known.bring_to(state)
            with self._lock:
                self._open[key] = known
                self._make_room()
            return known

    def at_hand(self, client: Client, draft: v1.Draft, place: Field) -> Opened:
        """Return an image as it is in memory; it is opened where it is not there."""
        with self._lock:
            known = self._open.get((client.project, draft.draft, place.name))
        return known if known is not None else self.opened(client, draft, place)

    def forget(self, client: Client, draft: v1.Draft, image: str) -> None:
        """Drop an image from memory, whose editor may not stand for what is saved any more."""
        with self._lock:
            self._open.pop((client.project, draft.draft, image), None)

    def change(
        self,
        client: Client,
        draft: v1.Draft,
        place: Field,
        request: v1.ChangeDraftImageRequest,
        sent: Sequence[Any],
        seen: Seen | None = None,
    ) -> tuple[Opened, v1.DraftImage, list[Window | None]]:
        """Apply operations to an image, or undo and redo them, and save that; return what changed.

        Nothing is changed here unless the catalogue has it.

        Parameters
        ----------
        request
            With the revision that the caller has seen; the operations are filled in here.
        sent
            The operations as JSON.
        seen
            What the window had seen of the image when the operations were made. They follow what came after it if they
            touch nothing of that; without it they follow nothing that they have not seen.

        Raises
        ------
        ConflictError
            The image was changed since that revision, where operations touch the same.
        InvalidInputError
            An operation cannot be applied.
        """
        opened = self.opened(client, draft, place)
        with opened.lock:
            followed = False
            if sent and seen is not None:
                others = seen.missed(opened.kept[: opened.editor.steps])
                if others is not None and can_follow(draft.kind, sent, others):
                    followed = opened.revision != request.revision
                    request.revision = opened.revision
                elif opened.revision == request.revision:
                    raise ConflictError(
                        f"{place.name} was changed in another window at the same place, which this correction has not "
                        "seen. Nothing of either is lost."
                    )
            if opened.revision != request.revision:
                # The same change, whose answer was lost, or a stale one: the catalogue knows which, and refuses the
                # latter.
                request.operations.extend(to_text(parse(each)) for each in sent)
                return opened, client.catalog.change_draft_image(request), [None]
            begun = opened.editor.steps
            # What the other window did is to be shown as well.
            windows: list[Window | None] = [None] if followed else []
            try:
                for each in sent:
                    operation = opened.editor.resolve(parse(each))
                    windows.append(opened.editor.apply(operation))
                    request.operations.append(to_text(operation))
                saved = client.catalog.change_draft_image(request)
            except BaseException:
                while opened.editor.steps > begun:
                    opened.editor.undo()
                raise
            if sent:
                opened.kept = [*opened.kept[:begun], *request.operations]
            while opened.editor.steps > saved.applied:
                windows.append(opened.editor.undo())
            while opened.editor.steps < saved.applied:
                windows.append(opened.editor.apply(parse(opened.kept[opened.editor.steps])))
            opened.revision = saved.revision
            return opened, saved, windows

    def _make_room(self) -> None:
        total = sum(opened.bytes for opened in self._open.values())
        while len(self._open) > _MOST_OPEN or (total > _MOST_BYTES and len(self._open) > 1):
            _, dropped = self._open.popitem(last=False)
            total -= dropped.bytes

    def _read(self, client: Client, draft: v1.Draft, place: Field) -> Opened:
        with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
            folder = Path(scratch)
            path = place.source.fetch(client, folder)
            header = inspect_image(path, limits=self._limits)
            axes = "".join(axis for axis in header.axes if axis in _PLANES)
            shape = tuple(length for axis, length in zip(header.axes, header.shape, strict=True) if axis in _PLANES)
            editor: LabelEditor | BoxEditor
            if draft.kind == "boxes":
                if axes != "YX":
                    raise InvalidInputError("Boxes can be drawn in single images, not in volumes or movies.")
                editor = self._boxes(client, draft, place, folder, (shape[-2], shape[-1]))
            else:
                editor = self._labels(client, draft, place, folder, axes, shape)
            opened = Opened(editor, axes, shape, header.pixel_size)
            if not place.tiles:
                image = read_image(path, limits=self._limits)
                pyramid = Pyramid(image.pixels, image.axes, image.pixel_size)
                opened.source_info = pyramid.info(hashlib.sha256(path.read_bytes()).hexdigest())
                opened.source = {tile.name: encode_tile(tile.pixels) for tile in pyramid.tiles()}
            return opened

    def _labels(
        self, client: Client, draft: v1.Draft, place: Field, folder: Path, axes: str, shape: tuple[int, ...]
    ) -> LabelEditor:
        labels = np.zeros(_full(axes, shape), np.uint32)
        classes: dict[int, int] = {}
        if place.target is not None:
            labels = self._whole(place.target.fetch(client, folder / "target"), axes, shape)
        if place.classes is not None:
            drawn = self._whole(place.classes.fetch(client, folder / "classes"), axes, shape)
            classes = _classes(labels, drawn)

        def load(digest: str) -> Labels:
            with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
                path = Path(scratch) / "labels.tif"
                with path.open("wb") as file:
                    for data in client.catalog.read_draft_file(draft.draft, digest):
                        file.write(data)
                return self._whole(path, axes, shape)

        return LabelEditor(labels, draft.kind == "classes", classes, load)

    def check(self, path: Path, opened: Opened) -> None:
        """Raise InvalidInputError where a file is no label image of the shape of an image."""
        self._whole(path, opened.axes, opened.shape)

    def _whole(self, path: Path, axes: str, shape: tuple[int, ...]) -> Labels:
        """Return a label image (T, Z, Y, X); raise InvalidInputError where it is none of this shape."""
        image = read_image(path, limits=self._limits, labels=True)
        pixels = image.pixels
        if pixels.shape != shape:
            raise InvalidInputError(
                f"It is {image.axes} {' x '.join(map(str, pixels.shape))}, and the image is {axes} "
                f"{' x '.join(map(str, shape))}: only labels of the same size can be used."
            )
        if pixels.dtype.kind not in "iu" or int(pixels.min(initial=0)) < 0 or int(pixels.max(initial=0)) >= 2**32:
            raise InvalidInputError("It holds no labels: these are whole numbers from 0, one for each object.")
        return np.ascontiguousarray(pixels.reshape(_full(axes, shape)), np.uint32)

    def _boxes(self, client: Client, draft: v1.Draft, place: Field, folder: Path, shape: tuple[int, int]) -> BoxEditor:
        names = list(draft.classes)
        boxes: list[DrawnBox] = []
        if place.target is not None:
            path = place.target.fetch(client, folder / "target")
            found: list[tuple[str, tuple[float, float, float, float]]]
            if path.suffix.lower() == ".csv":
                table = read_detections(path)
                corners = [tuple(map(float, (x0, y0, x1, y1))) for y0, x0, y1, x1 in table.corners.tolist()]
                found = list(zip(table.names, corners, strict=True))  # type: ignore[arg-type]
            else:
                annotation, _ = parse_voc(path, place.name, Notes())
                found = [(box.name, box.corners) for box in annotation.boxes]
            for number, (name, edges) in enumerate(found, start=1):
                boxes.append(DrawnBox(number, edges, names.index(name) + 1 if name in names else 0))
        return BoxEditor(tuple(boxes), shape, len(names))


def _full(axes: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the shape (T, Z, Y, X) of an image with these axes."""
    lengths = dict(zip(axes, shape, strict=True))
    return (lengths.get("T", 1), lengths.get("Z", 1), lengths["Y"], lengths["X"])


def _classes(labels: Labels, drawn: NDArray[Any]) -> dict[int, int]:
    """Return the class of each object that has one, by its number."""
    numbers, places = np.unique(labels, return_inverse=True)
    first = 0 if numbers[0] == 0 else 1
    compact = places.reshape(labels.shape) + first
    highest = int(drawn.max(initial=0))
    if not highest:
        return {}
    found = object_classes(compact, drawn.astype(np.int64), highest)
    return {
        int(number): int(found[index + first])
        for index, number in enumerate(numbers)
        if number and found[index + first]
    }


def patches(opened: Opened, windows: Sequence[Window | None]) -> list[dict[str, Any]] | None:
    """Return the labels in windows as they are now, plane by plane; None where these are too many for one answer."""
    labels, found, total = opened.labels.labels, [], 0
    for window in windows:
        if window is None:
            return None
        part = labels[window]
        total += part.size
        if total > _LARGEST_PATCH:
            return None
        t0, z0 = window[0].start or 0, window[1].start or 0
        for t, z in np.ndindex(part.shape[:2]):
            found.append(
                {
                    "t": t0 + t,
                    "z": z0 + z,
                    "y": window[2].start or 0,
                    "x": window[3].start or 0,
                    "height": part.shape[2],
                    "width": part.shape[3],
                    "values": np.ascontiguousarray(part[t, z], "<u4").tobytes(),
                }
            )
    return found


def tiff_bytes(image: Image) -> bytes:
    """Return an image as an OME-TIFF file."""
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        path = Path(scratch) / "labels.tif"
        write_image(path, image)
        return path.read_bytes()
