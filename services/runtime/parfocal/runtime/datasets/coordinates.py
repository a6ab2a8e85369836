"""Stacks of frames with tables of localisations: checked in ThunderSTORM's form, arrays in pixels for training."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.annotations.box import refusal as file_refusal
from parfocal.runtime.datasets.annotations.box import stem_of
from parfocal.runtime.datasets.findings import AS_STORED, Notes, Reading, Warnings, count, examine, file_name, some
from parfocal.runtime.datasets.pairs import CheckedImage, find_images, no_partner
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import DEFAULT_LIMITS, ImageLimits, PixelSize

SUFFIXES: Final = (".csv",)
"""Suffix of tables of localisations."""
AXES: Final = "TYX"
"""Axes of a stack of frames."""
_COLUMN: Final = re.compile(r"""\s*"?\s*(?P<name>[^"\[\]]*?)\s*(?:\[\s*(?P<unit>[^"\[\]]*?)\s*\])?\s*"?\s*""")
_NANOMETRES: Final = {"nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3}
_PIXELS: Final = ("px", "pixel", "pixels")
# Beside frame, x and y: what a published table keeps, in these units.
_KEPT: Final = {"z": "nm", "sigma": "nm", "intensity": "photon", "uncertainty": "nm"}
# So many localisations are in one corner by a wrong unit, not by chance, where a pixel has so many nm.
_SAME_CORNER: Final = 3
_WIDE_NM: Final = 20
_OUTSIDE: Final = 1.0  # Pixels: a fit at the border may lie a little outside; what is farther tells of a wrong unit.


@dataclass(frozen=True)
class Localisations:
    """Emitters located in the frames of one stack.

    Attributes
    ----------
    frame
        int64 (N,): number of the frame from 0, ascending.
    y, x
        float64 (N,): place in pixels from the upper left corner of the frame; pixel i reaches from i to i + 1.
    intensity
        float64 (N,): photons of the emitter, NaN where the table does not say.
    uncertainty
        float64 (N,): standard deviation of the place along each axis in pixels; None where the table does not say.
    confidence
        float64 (N,): how sure a method is of the emitter, 1 for certain; None where nothing says so.
    """

    frame: NDArray[np.int64]
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    intensity: NDArray[np.float64]
    uncertainty: NDArray[np.float64] | None = None
    confidence: NDArray[np.float64] | None = None

    def of_frame(self, number: int) -> Localisations:
        """Return those of one frame, counted from 0, without copying."""
        part = slice(*np.searchsorted(self.frame, (number, number + 1)).tolist())
        uncertainty, confidence = (None if each is None else each[part] for each in (self.uncertainty, self.confidence))
        return Localisations(
            self.frame[part], self.y[part], self.x[part], self.intensity[part], uncertainty, confidence
        )


@dataclass(frozen=True)
class LocalisedStack:
    """One stack fit for use and its table.

    `image` has the axes TYX and a pixel size; the table's place may not be a published one, and has `objects` rows.
    """

    image: CheckedImage
    table: Path
    objects: int

    def localisations(self) -> Localisations:
        """Return what the table says; it is read anew at each call."""
        size = self.image.pixel_size
        assert size is not None
        return read_localisations(self.table, (size.y, size.x), self.image.shape)

    def to_csv(self) -> bytes:
        """Return the table as published datasets have it: frames from 1, lengths in nm, rows by frame."""
        size = self.image.pixel_size
        assert size is not None
        name = file_name(self.table)
        table, _ = _fitting(_read(self.table, size, Notes()), name, self.image, Notes())
        names = ["frame", "x", "y", *(column for column in _KEPT if column in table.columns)]
        units = {"x": "nm", "y": "nm", **_KEPT}
        header = ",".join(f'"{column} [{units[column]}]"' if column in units else f'"{column}"' for column in names)
        rows = np.column_stack([table.frame + 1, *(table.columns[column] for column in names[1:])])
        formats = ["%d"] + ["%.10g"] * (len(names) - 1)
        with io.BytesIO() as buffer:
            np.savetxt(buffer, rows, fmt=formats, delimiter=",", header=header, comments="")
            return buffer.getvalue()


@dataclass(frozen=True)
class CoordinateReport:
    """Stacks with tables fit for training, in natural order of their names, and what is worth knowing about them."""

    stacks: tuple[LocalisedStack, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """`frame` from 0, ascending; `columns` in nm and photons, x and y among them."""

    frame: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]


def check_coordinates(
    source_folder: Path,
    target_folder: Path,
    *,
    pixel_size_nm: float | None = None,
    min_images: int = 1,
    reading: Reading = AS_STORED,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> CoordinateReport:
    """Check stacks of frames and the tables of what was located in them.

    Parameters
    ----------
    source_folder
        A folder with one stack per stem: TYX, or a stack of planes of which the file does not say that they are frames.
    target_folder
        A table ``NAME.csv`` for each stack, as ThunderSTORM exports it: columns ``frame`` (from 1), ``x [nm]``,
        ``y [nm]`` from the upper left corner, and more that may be missing. Lengths in px or µm are converted.
    pixel_size_nm
        Side length of a pixel in nm; None: as the stacks say.
    min_images, reading, limits
        See `check_images`.

    Raises
    ------
    InvalidInputError
        Something is wrong: the message lists the first ten problems, `violations` holds all.
    """
    notes, found = Notes(), Warnings()
    stacks = find_images(source_folder)
    tables, problems = _tables(target_folder)
    if len(stacks) < min_images:
        text = f"{count(len(stacks), 'stack')} found, {min_images} required: add some."
        problems.append(Violation(source_folder.name, text))
    partners = {stem: path.name for stem, path in stacks.items() if stem not in tables}
    problems += [
        Violation(file_name(path), no_partner(stem, partners, source_folder))
        for stem, path in tables.items()
        if stem not in stacks
    ]
    checked = []
    for stem, path in stacks.items():
        if stem not in tables:
            text = (
                f"no table named {stem}.csv in {target_folder.name}: add it, without rows if the stack has no emitter."
            )
            problems.append(Violation(file_name(path), text))
            continue
        image, wrong = _stack(stem, path, pixel_size_nm, reading, limits, notes, found)
        problems += wrong
        if image is None:
            continue
        assert image.pixel_size is not None
        name = file_name(tables[stem])
        try:
            table, wrong = _fitting(_read(tables[stem], image.pixel_size, notes), name, image, notes)
        except InvalidInputError as error:
            problems += error.violations
            continue
        problems += wrong
        empty = sorted(set(range(image.shape[0])) - set(np.unique(table.frame).tolist()))
        if empty and not wrong:
            frames = some([str(number + 1) for number in empty])
            notes.add("Frames without a localisation", f"{name}: {frames}", len(empty))
        checked.append(LocalisedStack(image, tables[stem], len(table.frame)))
    if not problems and not any(stack.objects for stack in checked):
        problems.append(Violation(target_folder.name, "no table has a row: there is nothing to train on."))
    if problems:
        raise refusal(f"The localisations cannot be used: {count(len(problems), 'problem')}.", problems)
    return CoordinateReport(tuple(checked), (*notes.texts(), *found.texts()))


def read_localisations(path: Path, pixel_size_um: tuple[float, float], shape: Sequence[int]) -> Localisations:
    """Return the localisations of one stack of a published dataset.

    Parameters
    ----------
    path
        Table of the stack's coordinates.
    pixel_size_um
        Height and width of a pixel in µm.
    shape
        Shape of the stack (T, Y, X) in pixels.

    Raises
    ------
    InvalidInputError
        The table is damaged, or has a place outside the stack.
    """
    size = PixelSize(pixel_size_um[1], pixel_size_um[0])
    image = CheckedImage(stem_of(path.name), path, tuple(shape), AXES, "", size)
    table, problems = _fitting(_read(path, size, Notes()), file_name(path), image, Notes())
    if problems:
        raise refusal(f"{file_name(path)} cannot be used.", problems)
    columns = table.columns
    return Localisations(
        table.frame,
        columns["y"] / (1e3 * size.y),
        columns["x"] / (1e3 * size.x),
        columns.get("intensity", np.full(len(table.frame), np.nan)),
        columns["uncertainty"] / (1e3 * float(np.sqrt(size.y * size.x))) if "uncertainty" in columns else None,
    )


def _stack(
    stem: str,
    path: Path,
    pixel_size_nm: float | None,
    reading: Reading,
    limits: ImageLimits,
    notes: Notes,
    found: Warnings,
) -> tuple[CheckedImage | None, list[Violation]]:
    """Return a stack with axes TYX and its pixel size, or what is wrong with it."""
    name = file_name(path)
    try:
        header = reading.inspect(path, limits)
    except InvalidInputError as error:
        return None, [Violation(name, error.violations[0].description if error.violations else error.message)]
    planes = header.axes == "ZYX"
    wanted = header.axes if planes else AXES
    image, problems = examine(path, wanted, None, limits, allow_constant=False, reading=reading)
    if image is None:
        return None, problems
    if planes:
        notes.add("Planes were taken for frames, although the files do not state it, in stacks", name)
    size = image.pixel_size
    if pixel_size_nm is not None:
        given = PixelSize(pixel_size_nm / 1e3, pixel_size_nm / 1e3)
        if size is not None and not np.allclose((size.x, size.y), (given.x, given.y), rtol=1e-3):
            what = f"The files state another pixel size than the given {pixel_size_nm:g} nm, which are used, in stacks"
            notes.add(what, f"{name}: {1e3 * size.x:g} x {1e3 * size.y:g} nm")
        size = given
    if size is None:
        text = "its pixel size is unknown, so that the localisations cannot be placed: save it in the file, or give it "
        return None, [Violation(name, f"{text}with --pixel-size in nm.")]
    found.note(name, replace(image, pixel_size=size), "stacks")
    return CheckedImage(stem, path, image.shape, AXES, image.dtype, PixelSize(size.x, size.y), reading), []


def _tables(folder: Path) -> tuple[dict[str, Path], list[Violation]]:
    if not folder.is_dir():
        return {}, [Violation(folder.name, f"there is no folder {folder}: check the name.")]
    tables = table_files(folder)
    if not tables:
        return {}, [Violation(folder.name, "it holds no tables of localisations (.csv): put one there for each stack.")]
    known: dict[str, Path] = {}
    problems = []
    for path in tables:
        if (other := known.setdefault(stem_of(path.name), path)) != path:
            problems.append(Violation(file_name(path), f"is for the same stack as {other.name}: keep one of the two."))
    return known, problems


def table_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may be tables of localisations, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )


def _read(path: Path, size: PixelSize, notes: Notes) -> _Table:
    """Return a table as the file has it, in nm; raise InvalidInputError naming the column or the row that is wrong."""
    name = file_name(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline(2**16)
            delimiter = next((mark for mark in ",;\t" if mark in header), ",")
            places, factors, units = _columns(header.rstrip("\r\n").split(delimiter), name, size, notes)
            # An empty table is nothing to warn of on the terminal.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*input contained no data")
                values = np.loadtxt(
                    file, delimiter=delimiter, usecols=list(places.values()), ndmin=2, comments=None, quotechar='"'
                )
    except UnicodeDecodeError as error:
        raise file_refusal(name, "is not text in UTF-8: export it again.") from error
    except OSError as error:
        raise file_refusal(name, f"cannot be read ({error.strerror}): check the file.") from error
    except ValueError as error:
        raise file_refusal(name, f"{_row_problem(error)}: correct or remove the row.") from error
    values = values.reshape(-1, len(places))
    columns = {column: values[:, at] * factors.get(column, 1.0) for at, column in enumerate(places)}
    for column, numbers in columns.items():
        required = column in {"frame", "x", "y"}
        if required and (bad := ~np.isfinite(numbers)).any():
            row = int(np.argmax(bad)) + 2
            text = f"{column} is not a number in {count(int(bad.sum()), 'row')}, the first is line {row}: remove them."
            raise file_refusal(name, text)
    frame = columns.pop("frame")
    if (broken := frame != np.floor(frame)).any():
        row = int(np.argmax(broken)) + 2
        raise file_refusal(name, f"frame is {frame[broken][0]:g} in line {row}: frames are whole numbers from 1.")
    rows = frame.astype(np.int64)
    if units:
        notes.add(f"Lengths were converted to nm from {', '.join(sorted(units))}", name)
    first = 1
    if len(rows) and rows.min() == 0:
        notes.add("Tables count frames from 0, which was taken for the first frame", name)
        first = 0
    order = np.argsort(rows, kind="stable")
    return _Table(rows[order] - first, {column: numbers[order] for column, numbers in columns.items()})


def _columns(
    header: Sequence[str], name: str, size: PixelSize, notes: Notes
) -> tuple[dict[str, int], dict[str, float], set[str]]:
    """Return where the columns are, what turns them into nm, and the units converted from."""
    places: dict[str, int] = {}
    factors: dict[str, float] = {}
    converted: set[str] = set()
    dropped = []
    pixels = {"x": 1e3 * size.x, "y": 1e3 * size.y}
    for at, text in enumerate(header):
        # With single spaces the expression has nothing to try again and again.
        match = _COLUMN.fullmatch(" ".join(text.split()))
        column, unit = (match["name"].lower(), (match["unit"] or "").strip()) if match is not None else ("", "")
        if column in {"x", "y", "frame"} and column in places:
            raise file_refusal(name, f"has the column {column} twice: remove one.")
        if column == "frame":
            places[column] = at
        elif column in pixels:
            factor = pixels[column] if unit.lower() in _PIXELS else _NANOMETRES.get(unit)
            if factor is None:
                what = f"has the unknown unit {unit!r}" if unit else "has no unit"
                raise file_refusal(name, f"the column {column} {what}: name it {column} [nm], or {column} [px].")
            if unit != "nm":
                converted.add(unit)
            places[column], factors[column] = at, factor
        elif _KEPT.get(column) == unit and column not in places:
            places[column] = at
        elif column and column != "id":
            dropped.append(text.strip().strip('"'))
    if missing := [column for column in ("frame", "x", "y") if column not in places]:
        wanted = ", ".join(column if column == "frame" else f"{column} [nm]" for column in missing)
        there = some([text.strip().strip('"') for text in header]) or "none"
        raise file_refusal(name, f"has no column {wanted} (its columns: {there}): export it as ThunderSTORM does.")
    for column in dropped:
        notes.add(f"Tables have the column {column}, which was left out", name)
    return places, factors, converted


def _row_problem(error: ValueError) -> str:
    """Return what numpy found wrong in a row, in the words of people.

    It counts rows after the header: from 0 where a value is no number, from 1 where values are missing.
    """
    text = str(error)
    if found := re.search(r"could not convert string '?(.*?)'? to float64 at row (\d+), column (\d+)", text):
        return f"{found[1]!r} in line {int(found[2]) + 2}, column {found[3]}, is not a number"
    if found := re.search(r"at row (\d+)", text):
        return f"line {int(found[1]) + 1} has another number of columns than the header"
    return f"it is not a table of numbers ({text})"


def _fitting(table: _Table, name: str, image: CheckedImage, notes: Notes) -> tuple[_Table, list[Violation]]:
    """Return the rows inside a stack, and what is wrong with others."""
    assert image.pixel_size is not None
    problems = []
    frames = image.shape[0]
    if (outside := (table.frame < 0) | (table.frame >= frames)).any():
        number = int(table.frame[outside][0]) + 1
        problems.append(
            Violation(
                name,
                f"frame: {count(int(outside.sum()), 'row')} outside the stack, for example frame {number} of "
                f"{frames}: use the table of this stack, and count frames from 1.",
            )
        )
    kept = np.ones(len(table.frame), np.bool_)
    for column, length, edge in (("y", image.shape[1], image.pixel_size.y), ("x", image.shape[2], image.pixel_size.x)):
        place = table.columns[column] / (1e3 * edge)
        far = (place < -_OUTSIDE) | (place > length + _OUTSIDE)
        if far.any():
            problems.append(
                Violation(
                    name,
                    f"{column}: {count(int(far.sum()), 'row')} outside the field, which is {length * edge * 1e3:g} nm "
                    f"({length} pixels of {edge * 1e3:g} nm), for example {table.columns[column][far][0]:g} nm: check "
                    "unit and pixel size, and that the table belongs to the stack.",
                )
            )
        kept &= (place >= 0) & (place < length)
    y, x = (table.columns[column] for column in "yx")
    # In nm that would be one pixel in ten thousand, where a pixel has 100 nm.
    corner = (y <= image.shape[1]) & (x <= image.shape[2])
    if len(corner) >= _SAME_CORNER and corner.all() and 1e3 * image.pixel_size.x >= _WIDE_NM:
        notes.add("All localisations lie in one corner, as if pixels had been labelled as nm: check the unit", name)
    if not problems and (number := int(np.count_nonzero(~kept))):
        notes.add("Localisations just outside the field, by less than a pixel, were left out", name, number)
    if kept.all():
        return table, problems
    return _Table(table.frame[kept], {column: values[kept] for column, values in table.columns.items()}), problems
