"""Objects in the S3 store, with the conditional writes on which jobs and publishing rest.

All functions are synchronous; servers call them in threads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PreconditionError,
    UnavailableError,
)
from parfocal.runtime.metrics import Counter, Histogram
from parfocal.runtime.settings import Settings

T = TypeVar("T")
_CALLS = Histogram("parfocal_store_seconds", "Time of the calls of the store, without lists.")
_AWAY = Counter("parfocal_store_unavailable_total", "Calls that the store refused or did not answer.")
_PIECE = 2**20
_MISSING = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NoSuchObject"}


@dataclass(frozen=True, order=True)
class Location:
    """A place in the store: `bucket` and `key` without a leading slash; a folder's key has no trailing one."""

    bucket: str
    key: str

    def __truediv__(self, name: str) -> Location:
        """Return the place `name` below this one; `name` may have several parts but cannot climb out."""
        parts = name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\\" in name or "\0" in name:
            raise InvalidInputError(
                f"{name!r} cannot be a name in the store: empty parts, '.', '..' and backslashes are refused."
            )
        return Location(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The folder this place is in."""
        return Location(self.bucket, self.key.rsplit("/", 1)[0] if "/" in self.key else "")

    def within(self, *folders: Location) -> Location:
        """Return this place if it is one of `folders` or lies in one; raise NotFoundError for any other place."""
        for folder in folders:
            if self.bucket == folder.bucket and f"{self.key}/".startswith(f"{folder.key}/" if folder.key else ""):
                return self
        raise NotFoundError(f"{self} is not a place that can be read from here.")

    @classmethod
    def parse(cls, uri: str) -> Location:
        """Read an `s3://bucket/key` address; raise InvalidInputError for anything else."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket or not key.strip("/"):
            raise InvalidInputError(f"{uri!r} is not a place in the store: write s3://BUCKET/PATH.")
        return cls(bucket, "") / key.strip("/")


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing; `is_folder` marks a common prefix of a listing that is not recursive.

    `sha256` is what the store itself has computed, where it was asked for a single object and keeps such digests.
    """

    location: Location
    size: int
    etag: str
    is_folder: bool
    sha256: str = ""


class Store:
    """The S3 store of one deployment; it requires the extra `store` of parfocal-runtime, which clients do without.

    Raises
    ------
    InvalidInputError
        The address of the store is no URL.
    PreconditionError
        The extra is not installed.
    """

    # The library is imported where it is used: clients import this module for the names of places.
    def __init__(self, settings: Settings) -> None:
        try:
            from minio import Minio
        except ModuleNotFoundError as error:
            raise PreconditionError(
                "The library for the store (minio) is not installed here, because clients do without it. For programs "
                "that use the store itself, install the extra: pip install 'parfocal-runtime[store]'."
            ) from error
        self.settings = settings
        url = urllib3.util.parse_url(settings.s3_endpoint)
        if url.scheme not in {"http", "https"} or not url.host:
            raise InvalidInputError(
                f"PARFOCAL_S3_ENDPOINT is {settings.s3_endpoint!r}; it must be a URL such as http://host:9000."
            )
        self._http = urllib3.PoolManager(
            maxsize=32,
            # Less in all than the minute in which a service has to answer, so that a store that hangs is named.
            timeout=urllib3.Timeout(connect=5.0, read=25.0),
            retries=urllib3.Retry(total=3, read=1, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        )
        self._client = Minio(
            url.netloc or "",
            access_key=settings.s3_access_key.get_secret_value(),
            secret_key=settings.s3_secret_key.get_secret_value(),
            secure=url.scheme == "https",
            region=settings.s3_region,
            http_client=self._http,
        )

    @property
    def datasets(self) -> Location:
        """Root of all datasets."""
        return Location(self.settings.bucket_datasets, "")

    @property
    def models(self) -> Location:
        """Root of all models."""
        return Location(self.settings.bucket_models, "")

    @property
    def results(self) -> Location:
        """Root of all results."""
        return Location(self.settings.bucket_results, "")

    @property
    def jobs(self) -> Location:
        """Root of all job records."""
        return Location(self.settings.bucket_jobs, "")

    @property
    def derived(self) -> Location:
        """Root of what is made of published images for showing them, by digest; it can be made again."""
        return Location(self.settings.bucket_derived, "")

    def ensure_buckets(self) -> None:
        """Create the five buckets where they do not exist."""
        from minio.error import S3Error

        with self._errors(self.jobs):
            for root in (self.datasets, self.models, self.results, self.jobs, self.derived):
                if not self._client.bucket_exists(root.bucket):
                    try:
                        self._client.make_bucket(root.bucket)
                    except S3Error as error:
                        if error.code not in {"BucketAlreadyExists", "BucketAlreadyOwnedByYou"}:
                            raise

    def read(self, location: Location) -> bytes:
        """Return the content of an object."""
        return self.read_versioned(location)[0]

    def read_versioned(self, location: Location) -> tuple[bytes, str]:
        """Return the content of an object and the ETag that `replace` needs."""
        with self._errors(location):
            response = self._client.get_object(location.bucket, location.key)
            try:
                return response.read(), response.headers["ETag"].strip('"')
            finally:
                response.close()
                response.release_conn()

    def read_json(self, location: Location) -> Any:
        """Return the content of a JSON object; raise DamagedError if it is none."""
        data = self.read(location)
        try:
            return json.loads(data)
        except ValueError as error:
            raise DamagedError(f"{location} is damaged ({error}). Restore it from a backup, or remove it.") from error

    def exists(self, location: Location) -> bool:
        """Return whether there is an object at `location`."""
        try:
            self.stat(location)
        except NotFoundError:
            return False
        return True

    def stat(self, location: Location) -> ObjectInfo:
        """Return size, ETag and, where the store keeps it, SHA-256 of an object."""
        asked: dict[str, Any] = {"x-amz-checksum-mode": "ENABLED"}
        with self._errors(location):
            found = self._client.stat_object(location.bucket, location.key, extra_headers=asked)
        checksum = str((found.metadata or {}).get("x-amz-checksum-sha256", ""))
        # That of an object made of parts is one of their digests, with their number after a hyphen.
        sha256 = "" if "-" in checksum else base64.b64decode(checksum).hex()
        return ObjectInfo(location, found.size or 0, (found.etag or "").strip('"'), is_folder=False, sha256=sha256)

    def chunks(self, location: Location, size: int = 2**20) -> Iterator[bytes]:
        """Yield the content of an object in pieces of at most `size` bytes."""
        with self._translated(location):
            response = self._client.get_object(location.bucket, location.key)
            try:
                yield from response.stream(size)
            finally:
                response.close()
                response.release_conn()

    def write(self, location: Location, data: bytes) -> None:
        """Write an object, whether it exists or not. Never for anything published."""
        self._put(location, data, {})

    def create(self, location: Location, data: bytes) -> str:
        """Create an object and return its ETag; raise ConflictError if it exists. Atomic among any writers."""
        return self._put(location, data, {"If-None-Match": "*"})

    def replace(self, location: Location, data: bytes, etag: str) -> str:
        """Replace an object that still has this ETag and return the new one; else raise ConflictError."""
        return self._put(location, data, {"If-Match": f'"{etag}"'})

    def _put(self, location: Location, data: bytes, conditions: dict[str, str]) -> str:
        # A writer that is killed between the headers and the body must not leave an empty object: SeaweedFS 4.48
        # stores one, unless the digest of the body is announced.
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        headers = {**conditions, "Content-MD5": base64.b64encode(digest).decode()}
        # The client has no public parameter for conditional headers; a presigned address takes them.
        with self._errors(location):
            url = self._client.presigned_put_object(location.bucket, location.key, expires=timedelta(minutes=5))
            # No retry by the transport: a repeated conditional write would conflict with its own success.
            response = self._http.request("PUT", url, body=data, headers=headers, retries=False)
        if response.status in {409, 412}:
            raise ConflictError(f"{location} exists already, or was changed in the meantime.")
        if response.status == 404:
            if "If-Match" in headers:
                raise ConflictError(f"{location} does not exist any more.")
            raise NotFoundError(f"The bucket {location.bucket!r} does not exist in the store.")
        if response.status in {401, 403}:
            raise UnavailableError(
                f"The store refused to write {location} (status {response.status}): check the access keys."
            )
        if response.status >= 300:
            raise UnavailableError(
                f"The store could not write {location} (status {response.status}). Check its disk space and its log."
            )
        return str(response.headers.get("ETag", "")).strip('"')

    def upload(self, path: Path, location: Location) -> None:
        """Write the file at `path` to the store."""
        with self._errors(location):
            self._client.fput_object(location.bucket, location.key, str(path))

    def download(self, location: Location, path: Path) -> None:
        """Write an object to the file `path`, complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(location):
            # Not `fget_object`: it asks for the object's size first, which doubles the requests for small images.
            response = self._client.get_object(location.bucket, location.key)
            part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.part")
            try:
                with part.open("wb") as file:
                    for piece in response.stream(_PIECE):
                        file.write(piece)
                part.replace(path)
            finally:
                response.close()
                response.release_conn()
                part.unlink(missing_ok=True)

    def objects(
        self, folder: Location, *, recursive: bool = True, start_after: str | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield what is below `folder` in order of names; `start_after` is a name relative to it."""
        prefix = f"{folder.key}/" if folder.key else ""
        # Not counted as one call: what is done with the objects meanwhile would count as well.
        with self._translated(folder):
            for item in self._client.list_objects(
                folder.bucket,
                prefix=prefix,
                recursive=recursive,
                start_after=prefix + start_after if start_after else None,
            ):
                key = str(item.object_name)
                if key == prefix:
                    continue
                yield ObjectInfo(
                    Location(folder.bucket, key.rstrip("/")),
                    item.size or 0,
                    (item.etag or "").strip('"'),
                    bool(item.is_dir),
                )

    def folders(self, folder: Location) -> list[str]:
        """Return the names of the folders directly below `folder`."""
        return [item.location.name for item in self.objects(folder, recursive=False) if item.is_folder]

    def begin_multipart(self, location: Location, *, resume: bool = False) -> tuple[str, dict[int, int]]:
        """Begin to write a large object in parts; with `resume` go on with what was begun last, if there is such.

        Returns
        -------
        tuple
            The id that names it in requests of parts, and the sizes in bytes of the parts that are there by number.
        """
        with self._errors(location):
            known = self._multiparts(location) if resume else []
            if known:
                return known[-1], {part.part_number: part.size for part in self._parts(location, known[-1])}
            return str(self._client._create_multipart_upload(location.bucket, location.key, {})), {}

    def complete_multipart(self, location: Location, size: int) -> ObjectInfo | None:
        """Make an object of `size` bytes of its parts, and return it; None where not all parts are there."""
        with self._errors(location):
            for upload_id in reversed(self._multiparts(location)):
                parts = self._parts(location, upload_id)
                if sum(part.size for part in parts) == size:
                    self._client._complete_multipart_upload(location.bucket, location.key, upload_id, parts)
                    return self.stat(location)
        return None

    def end_multipart(self, folder: Location, before: float | None = None) -> None:
        """Remove the parts of all objects at or below `folder` that were begun and not completed.

        With `before` only of those that were begun before that time, in seconds since 1970.
        """
        with self._errors(folder):
            for item in self._begun(folder.bucket, folder.key):
                if before is not None and item.initiated_time.timestamp() >= before:
                    continue
                if item.object_name == folder.key or item.object_name.startswith(f"{folder.key}/"):
                    self._client._abort_multipart_upload(folder.bucket, item.object_name, item.upload_id)

    def unfinished(self, folder: Location) -> Iterator[tuple[Location, int]]:
        """Yield the objects below `folder` that were begun in parts and not completed, with the bytes of these."""
        with self._translated(folder):
            for item in self._begun(folder.bucket, f"{folder.key}/"):
                place = Location(folder.bucket, item.object_name)
                yield place, sum(part.size for part in self._parts(place, str(item.upload_id)))

    # The client has no public methods for these four calls of S3: its own `put_object` is made of them.
    def _begun(self, bucket: str, prefix: str) -> Iterator[Any]:
        key_marker = upload_id_marker = None
        while True:
            answer = self._client._list_multipart_uploads(
                bucket, prefix=prefix, key_marker=key_marker, upload_id_marker=upload_id_marker
            )
            yield from answer.uploads
            if not answer.is_truncated:
                return
            key_marker, upload_id_marker = answer.next_key_marker, answer.next_upload_id_marker

    def _multiparts(self, location: Location) -> list[str]:
        """Return the ids of what was begun for an object, the newest last."""
        begun = [item for item in self._begun(location.bucket, location.key) if item.object_name == location.key]
        return [str(item.upload_id) for item in sorted(begun, key=lambda item: item.initiated_time)]

    def _parts(self, location: Location, upload_id: str) -> list[Any]:
        """Return the parts that are there by number; of one that came several times the last."""
        parts: list[Any] = []
        while True:
            marker = str(parts[-1].part_number) if parts else None
            answer = self._client._list_parts(location.bucket, location.key, upload_id, part_number_marker=marker)
            parts += answer.parts
            if not answer.is_truncated or not answer.parts:
                # SeaweedFS 4.48 lists all of them.
                newest = {part.part_number: part for part in sorted(parts, key=lambda part: part.last_modified)}
                return [newest[number] for number in sorted(newest)]

    def copy(self, source: Location, target: Location) -> None:
        """Copy one object within the store."""
        from minio.commonconfig import CopySource

        with self._errors(source):
            self._client.copy_object(target.bucket, target.key, CopySource(source.bucket, source.key))

    def delete(self, location: Location) -> None:
        """Remove one object; a missing object is ignored."""
        with self._errors(location):
            self._client.remove_object(location.bucket, location.key)

    @contextmanager
    def _errors(self, location: Location) -> Iterator[None]:
        begin = time.monotonic()
        try:
            with self._translated(location):
                yield
        except UnavailableError:
            _AWAY.add()
            raise
        finally:
            _CALLS.observe(time.monotonic() - begin)

    @contextmanager
    def _translated(self, location: Location) -> Iterator[None]:
        from minio.error import MinioException, S3Error

        try:
            yield
        except S3Error as error:
            if error.code in _MISSING:
                raise NotFoundError(f"{location} does not exist in the store.") from error
            if error.code in {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
                raise UnavailableError(
                    f"The store at {self.settings.s3_endpoint} refused access to {location}: "
                    "check PARFOCAL_S3_ACCESS_KEY and PARFOCAL_S3_SECRET_KEY."
                ) from error
            if error.code == "BucketAlreadyExists":
                raise AlreadyExistsError(str(error)) from error
            raise UnavailableError(f"The store could not serve {location}: {error.code}.") from error
        except (urllib3.exceptions.HTTPError, MinioException) as error:
            reason = getattr(error, "reason", None)
            if isinstance(reason, urllib3.exceptions.ResponseError):
                raise UnavailableError(
                    f"The store at {self.settings.s3_endpoint} cannot serve {location} at the moment ({reason}). Check "
                    "its disk space and its log."
                ) from error
            raise UnavailableError(
                f"The store at {self.settings.s3_endpoint} does not answer. "
                "Check that it runs (`parfocal status`) and try again."
            ) from error
        except OSError as error:
            raise translate_disk_error(error) from error


def patiently(
    action: Callable[[], T], seconds: float, on_wait: Callable[[UnavailableError], None] = lambda _: None
) -> T:
    """Do `action`, again and again for `seconds` while store or services do not answer, with growing pauses.

    `on_wait` is told the reason of each pause.
    """
    deadline, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            return action()
        except UnavailableError as error:
            if time.monotonic() > deadline:
                raise
            on_wait(error)
            time.sleep(pause)
            pause = min(2 * pause, 15.0)


def translate_disk_error(error: OSError) -> ParfocalError | OSError:
    """Return the error to raise instead of `error`: DiskFullError when a disk or quota is full."""
    import errno

    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = f" while writing {error.filename}" if error.filename else ""
        return DiskFullError(
            f"The disk is full{where}. Free some space, or move the cache by setting PARFOCAL_STATE_DIR."
        )
    return error
