"""What jobs that go through images share: the images fetched ahead, and where files and large arrays are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, open_image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.images.taken import Taken
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.prediction.inputs import InputFile, fetch_input
from parfocal.runtime.prediction.pace import Pace
from parfocal.runtime.store.manifests import FileEntry


@dataclass(frozen=True)
class FetchedImage:
    """An image of a job as a local file, or why it cannot be read."""

    name: str
    path: Path
    image: Image | None
    reason: str


def fetch_ahead(context: JobContext, inputs: Sequence[InputFile], pace: Pace) -> Iterator[FetchedImage]:
    """Yield what is taken of the images, in their order; the next one is fetched while one is used."""
    taken = Taken.of_message(context.job.prediction.taken, "prediction.taken")

    def fetch(item: InputFile) -> FetchedImage:
        with pace.stage("reading"):
            path = fetch_input(context, item)
            try:
                return FetchedImage(item.name, path, taken.of(open_image(path, scratch_of(context)), item.name), "")
            except InvalidInputError as error:
                return FetchedImage(item.name, path, None, error.message)

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(fetch, inputs[0])
        for following in [*inputs[1:], None]:
            item = ahead.result()
            if following is not None:
                ahead = pool.submit(fetch, following)
            yield item


def report_tiles(context: JobContext, name: str, number: int, count: int) -> Callable[[int, int], None]:
    """Return the function that is told how far an image is, the one with this number (from 0) of so many."""

    def on_tile(done: int, total: int) -> None:
        context.check_cancelled()
        fraction = (number + done / total) / count
        progress = v1.Progress(stage="predicting", step=number, steps=count, fraction=fraction)
        doing = "merging" if context.job.prediction.part_uris else "predicting"
        context.report_progress(progress, message=f"{doing} {name}")

    return on_tile


def output_folder(context: JobContext) -> Path:
    """Return where the files of the result are made."""
    return context.scratch / "outputs"


def scratch_of(context: JobContext) -> Scratch:
    """Return where arrays lie that are as large as an image."""
    return Scratch(context.scratch / "arrays", round(context.settings.in_memory_mib * 2**20))


def send(context: JobContext, path: Path) -> FileEntry:
    """Upload a file of the result, under its name below the folder of outputs, and remove it here."""
    entry = context.send(path, path.relative_to(output_folder(context)).as_posix())
    path.unlink()
    return entry


def refuse_all(reasons: Sequence[tuple[str, str]]) -> InvalidInputError:
    """Return the error of a job whose images all failed; name and reason of each are given."""
    name, reason = reasons[0]
    said = reason if reason.startswith(name) else f"{name}: {reason}"
    none = f"None of the {len(reasons)} images could" if len(reasons) > 1 else "The image could not"
    return InvalidInputError(f"{none} be predicted. {said}")
