"""Files on their way to becoming a dataset or the input of a prediction.

They lie in a folder of the state folder until they are saved or discarded, at most a week. Names that a browser sends
are labels: they are taken apart and rebuilt, and lead nowhere outside the upload's own folder.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from parfocal.runtime.datasets.pairs import PASSED_OVER
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.images.files import image_stem
from parfocal.runtime.store.names import is_job_id, new_request_id
from parfocal.runtime.store.store import translate_disk_error

ROLES: Final[Mapping[str, str]] = {
    "train/source": "Images to train on",
    "train/target": "Targets of the training",
    "test/source": "Images to test with",
    "test/target": "Targets of the test",
    "": "Leave out",
}
"""What a folder of an upload can be, and how people call it."""

HELD_OUT: Final = 5
"""Every so manieth image is held out for the test where an upload has no test images."""

# Hidden from the files of an upload, and no name that a browser can send.
_MAKER: Final = ".made-by"
_ORDER: Final = ".to-be-fetched"
_KEEP_SECONDS: Final = 7 * 86_400.0
_MOST_PARTS, _LONGEST_PART = 8, 200
_TARGETS: Final = re.compile(
    r"target|label|mask|annot|ground.?truth|^gt$|gt_|_gt|clean|high|sharp|long|box|coord|locali[sz]ation|stain|fluor",
    re.IGNORECASE,
)
_TESTS: Final = re.compile(r"^(test|validation|val|valid|qc|quality.?control|held.?out)", re.IGNORECASE)


@dataclass(frozen=True)
class UploadedFile:
    """One file: its path below the upload with slashes, and its size in bytes."""

    path: str
    size: int

    @property
    def folder(self) -> str:
        """The folder it lies in; empty at the top."""
        parent = str(PurePosixPath(self.path).parent)
        return "" if parent == "." else parent

    @property
    def name(self) -> str:
        """The name without the folder."""
        return PurePosixPath(self.path).name


class Uploads:
    """The uploads of all projects below one folder of this computer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, project: str, made_by: str = "") -> str:
        """Return the id of a new upload of somebody; those that lie too long are removed."""
        self.sweep()
        upload = new_request_id("upload")
        folder = self._folder / project / upload
        folder.mkdir(parents=True, mode=0o700)
        (folder / _MAKER).write_text(made_by, "utf-8")
        return upload

    def maker(self, project: str, upload: str) -> str:
        """Return who began an upload; empty where there are no identities."""
        try:
            return (self.place(project, upload) / _MAKER).read_text("utf-8")
        except FileNotFoundError:
            return ""

    def order(self, project: str, upload: str) -> str:
        """Return what is still to be fetched for an upload, as it was set; empty: nothing."""
        try:
            return (self.place(project, upload) / _ORDER).read_text("utf-8")
        except FileNotFoundError:
            return ""

    def set_order(self, project: str, upload: str, text: str) -> None:
        """Keep what is still to be fetched for an upload; empty: nothing."""
        path = self.place(project, upload) / _ORDER
        if text:
            path.write_text(text, "utf-8")
        else:
            path.unlink(missing_ok=True)

    def place(self, project: str, upload: str) -> Path:
        """Return the folder of an upload; raise NotFoundError if there is none."""
        folder = self._folder / project / upload
        if not is_job_id(upload) or not folder.is_dir():
            raise NotFoundError("This upload is no longer there: uploads are kept for a week. Upload the images again.")
        return folder

    @contextlib.contextmanager
    def receiving(self, project: str, upload: str, name: str) -> Iterator[IO[bytes]]:
        """Give a file to write to, which takes its name when all of it has arrived."""
        place, path = self.place(project, upload), safe_path(name)
        target = place / path
        if target.is_dir() or any((place / above).is_file() for above in path.parents):
            raise InvalidInputError(f"{path} would be a file and a folder at once. Rename it and upload it again.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".incoming-", delete=False) as part:
            try:
                yield part
                part.flush()
                Path(part.name).replace(target)
            except BaseException as error:
                Path(part.name).unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise translate_disk_error(error) from error
                raise

    def files(self, project: str, upload: str) -> list[UploadedFile]:
        """Return the files that have arrived, by path, without what systems hide in folders."""
        folder = self.place(project, upload)
        return sorted(
            (
                UploadedFile(path.relative_to(folder).as_posix(), path.stat().st_size)
                for path in folder.rglob("*")
                if path.is_file() and not path.name.startswith(".") and path.name not in PASSED_OVER
            ),
            key=lambda file: file.path,
        )

    def remove(self, project: str, upload: str, name: str) -> None:
        """Remove one file."""
        (self.place(project, upload) / safe_path(name)).unlink(missing_ok=True)

    def discard(self, project: str, upload: str) -> None:
        """Remove an upload."""
        shutil.rmtree(self.place(project, upload), ignore_errors=True)

    def open(self, project: str) -> list[str]:
        """Return the ids of the uploads that nobody has saved or discarded, newest first."""
        folder = self._folder / project
        return sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []

    def sweep(self) -> None:
        """Remove uploads that lie too long."""
        oldest = time.time() - _KEEP_SECONDS
        for folder in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                if folder.stat().st_mtime < oldest:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def arranged(self, project: str, upload: str, roles: Mapping[str, str], *, hold_out: bool) -> Iterator[Path]:
        """Give a folder of links laid out as a dataset, see `parfocal.client.datasets.check_folder`.

        Parameters
        ----------
        roles
            By folder of the upload: a key of `ROLES`.
        hold_out
            Every fifth image and its target become test images.
        """
        place = self.place(project, upload)
        with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
            root = Path(scratch) / "upload"
            root.mkdir()
            chosen = [(file, role) for file in self.files(project, upload) if (role := roles.get(file.folder, ""))]
            held = _held_out(chosen) if hold_out else frozenset()
            for file, role in chosen:
                split, _, kind = role.partition("/")
                if split == "train" and image_stem(Path(file.name)) in held:
                    split = "test"
                link = root / split / kind / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if link.is_symlink():
                    raise InvalidInputError(
                        f"Two files are called {file.name}, in {file.folder or 'the upload'} and in another folder of "
                        "the same use. Rename one of them, or leave one of the folders out."
                    )
                link.symlink_to(place / file.path)
            yield root


def safe_path(name: str) -> PurePosixPath:
    """Return the path that a browser's name of a file stands for; raise InvalidInputError if it cannot name one."""
    parts = [part for part in re.split(r"[/\\]+", unicodedata.normalize("NFC", name)) if part not in {"", "."}]
    wrong = not parts or len(parts) > _MOST_PARTS
    for part in parts:
        wrong = wrong or part in {"..", _MAKER, _ORDER} or len(part.encode()) > _LONGEST_PART or not part.isprintable()
    if wrong:
        raise InvalidInputError(f"{name!r} cannot be the name of a file. Rename it and upload it again.")
    return PurePosixPath(*parts)


def guess_roles(files: Sequence[UploadedFile]) -> dict[str, str]:
    """Return for each folder of an upload what it probably holds."""
    folders = sorted({file.folder for file in files})
    roles = {}
    for folder in folders:
        parts = folder.split("/")
        split = "test" if any(_TESTS.match(part) for part in parts) else "train"
        kind = "target" if _TARGETS.search(parts[-1]) else "source"
        roles[folder] = f"{split}/{kind}"
    sources = [folder for folder, role in roles.items() if role == "train/source"]
    # Two folders whose names say nothing: images beside what they should become.
    if len(sources) == 2 and "train/target" not in roles.values():
        roles[sources[1]] = "train/target"
    return roles


def _held_out(files: Sequence[tuple[UploadedFile, str]]) -> frozenset[str]:
    """Return the stems of every fifth training image, where no test images are given."""
    if any(role.startswith("test/") for _, role in files):
        return frozenset()
    stems = sorted(image_stem(Path(file.name)) for file, role in files if role == "train/source")
    return frozenset(stems[HELD_OUT - 1 :: HELD_OUT])
