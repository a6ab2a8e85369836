"""Uploads: begun, sent by clients straight to the store, verified here, and then published.

The files go to their final place: whoever has a signed request can create exactly one object of the announced length
and digest there, and replace none. So what was verified stays as it is, and nothing is copied.

Not every store keeps what was signed. In one that does not, files that come in one request are staged: they are sent to
a place of their own, and when their digest has been found right, those bytes are written to the final place, by a write
that replaces nothing. Files in parts need no stage: no part can be sent any more once the catalogue has completed them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from parfocal import v1
from parfocal.catalog.lineage import addresses
from parfocal.catalog.places import DATASET, KINDS, RESULT, Kind, has_job
from parfocal.catalog.signing import Signer, ignored_by
from parfocal.catalog.uploads.checks import check_announced, check_header, digest_of
from parfocal.catalog.uploads.records import FOLDER, INBOX, INBOXES, Record, Records, Upload, kind_of_upload
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    Violation,
    refusal,
)
from parfocal.runtime.store.confinement import confine
from parfocal.runtime.store.housekeeping import free_space, scratch_folder
from parfocal.runtime.store.manifests import (
    SCHEMA_VERSION,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    Manifest,
)
from parfocal.runtime.store.names import (
    check_name,
    check_request_id,
    dataset_location,
    is_name,
    model_location,
    result_location,
)
from parfocal.runtime.store.parts import PART_BYTES, part_size
from parfocal.runtime.store.publish import CLAIM, TRASH, claim_version, is_taken, publish, sha256_of
from parfocal.runtime.store.store import Location, ObjectInfo, Store

_log = logging.getLogger(__name__)
_DAY: Final = 86_400.0
_THREADS: Final = 4
_RESERVE: Final = 64 * 2**20
_MOST_FILES: Final = 500
_LARGEST_MANIFEST: Final = 256 * 2**20
# Of 4 MiB that gRPC takes by default. Only files of more than 300 GiB have so many parts.
_LARGEST_ANSWER: Final = 3 * 2**20


class Uploads:
    """Begins, signs, verifies, publishes and ends uploads; safe to use from several threads and instances.

    Parameters
    ----------
    store, signer
        Where the files go, and who signs the requests that send them.
    state
        State folder of the machine; files are looked at in its scratch folder.
    """

    def __init__(self, store: Store, signer: Signer, state: Path) -> None:
        self._store = store
        self._records = Records(store)
        self._signer = signer
        self._state = state
        self._staging: bool | None = None

    def test_store(self) -> bool:
        """Try once whether the store keeps what is signed, and return whether files must be staged.

        Raises
        ------
        PreconditionError
            It takes no uploads at all.
        UnavailableError
            The store does not answer.
        """
        if self._staging is None:
            ignored = ignored_by(self._store)
            self._staging = bool(ignored)
            if ignored:
                _log.warning("the store ignores %s of signed requests: files are staged, which takes longer", ignored)
        return self._staging

    def begin(self, project: str, number: v1.UploadKind.ValueType, request: str, name: str, who: str) -> Upload:
        """Begin an upload, or return the one that the same request id began.

        Raises
        ------
        AlreadyExistsError
            The request id stands for another upload, or for a job.
        """
        what, kind = kind_of_upload(number)
        check_request_id(request)
        if kind.versioned or what == INBOX:
            check_name(kind.word if kind.versioned else what, name)
        elif name:
            text = "must be empty: results and inputs are named by the request id"
            raise InvalidInputError(f"The name {text}.", [Violation("name", text)])
        known = self._records.known(project, what, kind, request)
        if known is None:
            known = self._new(project, what, kind, request, name, who)
        if known.record.name != (name or request):
            raise AlreadyExistsError(f"The request id {request!r} belongs to an upload of {known.record.name!r}.")
        return known

    def find(self, project: str, word: str) -> Upload:
        """Return an upload; raise NotFoundError where none of this name was begun."""
        return self._records.find(project, word)

    def sign(self, upload: Upload, files: Sequence[v1.UploadFile], *, resume: bool) -> list[v1.FileUpload]:
        """Return how each file is sent.

        Parameters
        ----------
        files
            At most 500; one with the name of the manifest is the manifest.
        resume
            Look which of them the store has already.
        """
        self._require_open(upload)
        if len(files) > _MOST_FILES:
            text = f"{len(files)} files at a time, but at most {_MOST_FILES} are taken; ask several times"
            raise InvalidInputError(f"These are {text}.", [Violation("files", text)])
        for file in files:
            check_announced(upload.kind, file)
        return [self._sign(upload, file, resume=resume) for file in files]

    def publish(self, upload: Upload, files: Sequence[v1.UploadFile], who: str) -> Iterator[tuple[int, int]]:
        """Verify all files and publish; yield the number of verified files and of all, as they are verified.

        Raises
        ------
        InvalidInputError
            A file is missing, differs from what was announced, or is no such image; nothing is published.
        """
        if self._is_published(upload):
            return  # a repeated call
        if not upload.has_manifest:
            for file in files:
                check_announced(upload.kind, file)
            entries = tuple(FileEntry(name=file.name, size=file.size, sha256=file.sha256) for file in files)
            yield from self._verify(upload, entries, {})
            self._commit(upload, entries)
            self._records.remove(upload)
            return
        manifest = self._proposed(upload, who)
        images = {image.file: image for image in getattr(manifest, "images", ()) if isinstance(image, ImageEntry)}
        yield from self._verify(upload, manifest.files, images)
        self._commit(upload, manifest.files)
        try:
            publish(self._store, upload.place, upload.kind.manifest, manifest)
        except AlreadyExistsError:
            _log.info("%s was published by another call", upload.place)
        # Nothing else tells it once the entry has been removed for good, whose version is never used again.
        self._records.note_published(upload)
        self._store.delete(self._records.proposed(upload))

    def _commit(self, upload: Upload, files: Sequence[FileEntry]) -> None:
        """Note that all files have been verified, and remove parts that nothing has been made of."""
        self._records.commit(upload)
        if not upload.is_inbox and any(file.size > PART_BYTES for file in files):
            # A file that was begun several times was completed once.
            self._store.end_multipart(upload.place)

    def place_of(self, upload: Upload, file: v1.UploadFile) -> Location:
        """Return where the store gets a file of an upload by signed requests."""
        if file.name == upload.kind.manifest and upload.has_manifest:
            return self._records.proposed(upload)
        if upload.record.staged and file.size <= PART_BYTES:
            return self._records.staged(upload, file.name)
        return upload.place / file.name

    def abort(self, upload: Upload, *, force: bool = False) -> None:
        """End an upload and remove its files; the claim of a version stays, because numbers are never reused.

        With `force` also one whose publication was begun, long ago, and not finished.

        Raises
        ------
        PreconditionError
            It is published or being published, or a job has taken it.
        """
        self._require_open(upload)
        if upload.is_inputs and has_job(self._store, upload.project, upload.request):
            raise PreconditionError(f"The upload {upload.word} belongs to a job by now.")
        self._records.note_removal(upload, force=force)
        if not upload.is_inbox:  # what lies there came by other uploads too
            for item in list(self._store.objects(upload.place)):
                if item.location != upload.place / CLAIM:
                    self._store.delete(item.location)
            self._store.end_multipart(upload.place)
        self._records.remove(upload)

    def tidy(self, days: float, *, now: float | None = None) -> int:
        """Remove the uploads that were begun more than `days` ago and not published; return how many."""
        before, removed = (time.time() if now is None else now) - days * _DAY, 0
        for kind in KINDS:
            root = kind.root(self._store)
            for project in filter(is_name, self._store.folders(root)):
                for item in list(self._store.objects(root / project / FOLDER, recursive=False)):
                    if item.is_folder:
                        self._records.remove_late(project, kind, item.location.name)
                    else:
                        removed += self._tidy(project, kind, item.location.name.removesuffix(".json"), before)
                if kind is RESULT:
                    # Several uploads may send to one inbox, so their ends leave parts that were begun there alone.
                    self._store.end_multipart(root / project / INBOXES, before)
        return removed

    def _tidy(self, project: str, kind: Kind, stem: str, before: float) -> bool:
        what, _, request = stem.partition(".")
        try:
            upload = self._records.known(project, what, kind, request)
        except DamagedError as error:
            _log.warning("an upload is left alone: %s", error.message)
            return False
        if upload is None or upload.record.created_at.timestamp() > before:
            return False
        if self._is_published(upload) or (upload.is_inputs and has_job(self._store, project, request)):
            self._records.remove(upload)
            return False
        self.abort(upload, force=True)
        return True

    def _new(self, project: str, what: str, kind: Kind, request: str, name: str, who: str) -> Upload:
        version = 0
        if kind.versioned:
            folder = (dataset_location if kind is DATASET else model_location)(self._store, project, name)
            version = int(claim_version(self._store, folder, f"upload {request}").name)
        elif what != INBOX:
            self._require_free(project, request)
        record = Record(
            what=what,  # type: ignore[arg-type]
            name=name or request,
            version=version,
            created_at=datetime.now(UTC),
            created_by=who,
            staged=self.test_store(),
        )
        # The same request may have reached another instance at the same moment: its version counts.
        return self._records.create(project, kind, request, record) or self.find(project, f"{what}/{request}")

    def _sign(self, upload: Upload, file: v1.UploadFile, *, resume: bool) -> v1.FileUpload:
        if file.name == upload.kind.manifest and upload.has_manifest:
            request = self._signer.put(self.place_of(upload, file), file.size, file.sha256, replace=True)
            return v1.FileUpload(name=file.name, requests=[request])
        place = upload.place / file.name
        there = self._is_in_inbox(place, file) if upload.is_inbox else resume and self._is_there(upload, place, file)
        if there or (resume and upload.record.staged and self._is_staged(upload, file)):
            return v1.FileUpload(name=file.name, done=True)
        if file.size <= PART_BYTES:
            request = self._signer.put(self.place_of(upload, file), file.size, file.sha256)
            return v1.FileUpload(name=file.name, requests=[request])
        return self._sign_parts(place, file, resume=resume)

    def _sign_parts(self, place: Location, file: v1.UploadFile, *, resume: bool) -> v1.FileUpload:
        part = file.part_size if file.part_md5s else part_size(file.size)
        parts = {
            number: (offset, min(part, file.size - offset))
            for number, offset in enumerate(range(0, file.size, part), 1)
        }
        multipart, sizes = self._store.begin_multipart(place, resume=resume)
        if any(number not in parts or parts[number][1] != size for number, size in sizes.items()):
            # It was begun in parts of another size.
            multipart, sizes = self._store.begin_multipart(place)
        requests: list[v1.SignedRequest] = []
        for number, (offset, size) in parts.items():
            if number not in sizes:
                md5 = file.part_md5s[number - 1] if file.part_md5s else b""
                requests.append(self._signer.put_part(place, multipart, number, offset, size, md5))
                if len(requests) * requests[-1].ByteSize() > _LARGEST_ANSWER:
                    break
        # Whoever verifies the file completes it, and removes it if it is not as announced.
        return v1.FileUpload(name=file.name, done=not requests, requests=requests)

    def _is_staged(self, upload: Upload, file: v1.UploadFile) -> bool:
        """Return whether a file is staged, which brings it to its place; one of another content is removed."""
        try:
            return self._land(upload, file) is not None
        except InvalidInputError:
            return False

    def _land(self, upload: Upload, file: v1.UploadFile | FileEntry) -> ObjectInfo | None:
        """Write a staged file to its place, and return what is there; None where there is none and none is staged.

        Raises
        ------
        InvalidInputError
            It is not what was announced, and has been removed.
        """
        stage, place = self._records.staged(upload, file.name), upload.place / file.name
        try:
            size = self._store.stat(stage).size
            data = self._store.read(stage) if size == file.size else b""
        except NotFoundError:
            # Another call may have brought it to its place meanwhile.
            return self._store.stat(place) if self._store.exists(place) else None
        if size != file.size:
            problem = f"has {size} bytes instead of {file.size}"
        elif hashlib.sha256(data).hexdigest() != file.sha256:
            problem = "has another SHA-256 than was announced"
        else:
            problem = ""
            with contextlib.suppress(ConflictError):  # another call was first; what is there is looked at like any file
                self._store.create(place, data)
        self._store.delete(stage)
        if problem:
            raise InvalidInputError(f"{problem}: send it again")
        return self._store.stat(place)

    def _is_there(self, upload: Upload, place: Location, file: v1.UploadFile) -> bool:
        """Return whether the store has a file; one of another content is removed."""
        try:
            found = self._store.stat(place)
        except NotFoundError:
            return False
        if found.size == file.size and (found.sha256 or digest_of(self._store, place)) == file.sha256:
            return True
        self._discard(upload, place)
        return False

    def _is_in_inbox(self, place: Location, file: v1.UploadFile) -> bool:
        """Return whether an inbox has a file; raise AlreadyExistsError where it has another one of the name."""
        try:
            found = self._store.stat(place)
        except NotFoundError:
            return False
        if found.size == file.size and (found.sha256 or digest_of(self._store, place)) == file.sha256:
            return True
        text = f"The inbox has another image named {file.name}, which is never replaced. Give the new one another name."
        raise AlreadyExistsError(text, [Violation(file.name, text)])

    def _verify(
        self, upload: Upload, files: Sequence[FileEntry], images: Mapping[str, ImageEntry]
    ) -> Iterator[tuple[int, int]]:
        problems: list[Violation] = []
        with (
            scratch_folder(self._state / "scratch", "upload-") as scratch,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            begun = {pool.submit(self._check, upload, entry, images.get(entry.name), scratch): entry for entry in files}
            try:
                for done, future in enumerate(as_completed(begun), 1):
                    try:
                        future.result()
                    except InvalidInputError as error:
                        problems.append(Violation(begun[future].name, error.message))
                    yield done, len(files)
            except BaseException:
                # Also where the client has gone.
                pool.shutdown(cancel_futures=True)
                raise
        if problems:
            problems.sort(key=lambda problem: problem.field)
            raise refusal("These files differ from what was announced; nothing was published.", problems)

    def _check(self, upload: Upload, entry: FileEntry, image: ImageEntry | None, scratch: Path) -> None:
        """Raise InvalidInputError where a file is not what its entry says."""
        place = upload.place / entry.name
        found: ObjectInfo | None
        mine = not upload.is_inbox
        try:
            found = self._store.stat(place)
        except NotFoundError:
            if entry.size > PART_BYTES:
                found, mine = self._store.complete_multipart(place, entry.size), True
            else:
                found = self._land(upload, entry) if upload.record.staged else None
        if found is None:
            raise InvalidInputError("is missing: send it")
        if found.size != entry.size:
            self._discard(upload, place, mine=mine)
            raise InvalidInputError(f"has {found.size} bytes instead of {entry.size}: send it again")
        if image is None:
            # Of a file that came in one request the store has the digest. Somebody may delete the original of one that
            # came into an inbox, so it is read back.
            known = "" if upload.is_inbox else found.sha256
            digest = known or digest_of(self._store, place)
        else:
            if free_space(scratch, self._state, entry.size + _RESERVE) < entry.size + _RESERVE:
                raise DiskFullError("The catalogue has no room to look at the files. Try again later.")
            # One folder each: names of files are no paths here.
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                path = Path(folder) / f"image{''.join(Path(entry.name).suffixes[-2:])}"
                self._store.download(place, path)
                digest = sha256_of(path)
                if digest == entry.sha256:
                    check_header(path, image)
        if digest != entry.sha256:
            self._discard(upload, place, mine=mine)
            raise InvalidInputError("has another SHA-256 than was announced: send it again")

    def _discard(self, upload: Upload, place: Location, *, mine: bool = True) -> None:
        """Remove a file that is not what was announced, unless another upload may have brought it."""
        if mine:
            self._records.note_removal(upload)
            self._store.delete(place)

    def _proposed(self, upload: Upload, who: str) -> Manifest:
        place = self._records.proposed(upload)
        try:
            if self._store.stat(place).size > _LARGEST_MANIFEST:
                raise InvalidInputError(f"The manifest is larger than {_LARGEST_MANIFEST // 2**20} MiB.")
            data = self._store.read(place)
        except NotFoundError as error:
            raise PreconditionError(f"Send the manifest {upload.kind.manifest} before publishing.") from error
        try:
            manifest = upload.kind.model.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its content"
            text = f"{where}: {first['msg']}"
            raise InvalidInputError(f"The manifest cannot be used: {text}.", [Violation("manifest", text)]) from error
        self._check_files(upload, manifest)
        known = {"project": upload.project, "schema_version": SCHEMA_VERSION}
        known |= {"created_at": datetime.now(UTC), "created_by": who}
        known |= (
            {upload.kind.word: upload.record.name, "version": upload.record.version}
            if upload.kind.versioned
            else {"job": upload.record.name}
        )
        return manifest.model_copy(update=known)

    def _check_files(self, upload: Upload, manifest: Manifest) -> None:
        names = Counter(entry.name for entry in manifest.files)
        problems = [Violation(name, "is listed twice") for name, count in names.items() if count > 1]
        if upload.kind.manifest in names:
            problems.append(Violation(upload.kind.manifest, "is the manifest and cannot be one of its files"))
        for entry in manifest.files:
            try:
                check_announced(upload.kind, v1.UploadFile(name=entry.name, size=entry.size, sha256=entry.sha256))
            except InvalidInputError as error:
                problems += error.violations
        if isinstance(manifest, DatasetManifest):
            used = [image.file for image in manifest.images] + [each.file for each in manifest.annotations]
            problems += [Violation(name, "is not among the files") for name in sorted({*used} - names.keys())]
        for role, uri in addresses(manifest.model_dump(mode="json", exclude={"files"})):
            try:
                confine(self._store, upload.project, uri, role)
            except (InvalidInputError, NotFoundError) as error:
                problems += error.violations
        if problems:
            raise refusal("The manifest cannot be used.", problems)

    def _require_open(self, upload: Upload) -> None:
        if self._is_published(upload):
            raise PreconditionError(f"The upload {upload.word} is published already; published data never change.")

    def _require_free(self, project: str, request: str) -> None:
        """Raise AlreadyExistsError where results, also deleted ones, or a job have this request id."""
        # Inputs may lie there: those of a prediction that has not been started, or of the result that will follow.
        if has_job(self._store, project, request) or is_taken(
            self._store, result_location(self._store, project, request)
        ):
            raise AlreadyExistsError(f"The request id {request!r} belongs to a job or to results: use a fresh one.")

    def _is_published(self, upload: Upload) -> bool:
        """Return whether an upload has been published; what was deleted since is published all the same."""
        if not upload.has_manifest:
            return False
        if upload.record.published or self._store.exists(upload.place / upload.kind.manifest):
            return True
        root = upload.kind.root(self._store)
        relative = upload.place.key.removeprefix(f"{upload.project}/")
        return self._store.exists(root / upload.project / TRASH / relative / upload.kind.manifest)
