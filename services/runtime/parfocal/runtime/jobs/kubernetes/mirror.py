"""A copy of some of the cluster's objects, kept current by the API's stream of changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.jobs.kubernetes.api import ApiError, KubernetesApi, Object

_log = logging.getLogger(__name__)
_LEAST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 15.0
_PAGE: Final = "500"


class Mirror:
    """The objects of one kind that have a label. A thread lists them, and then follows what changes.

    A stream that ends is continued from where it ended. If it broke, or if that version is too old, all objects are
    listed again; those that were deleted meanwhile then vanish here as well.

    Parameters
    ----------
    path, selector
        Which objects, e.g. those of `/api/v1/namespaces/imaging/pods` with the label "parfocal/service=care".
    """

    def __init__(self, api: KubernetesApi, path: str, selector: str) -> None:
        self._api = api
        self._path = path
        self._selector = selector
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._listed = False
        self._trouble = ""
        self._ended = threading.Event()
        # A daemon and no thread of an executor, which Python would wait for at the end although its stream is silent.
        self._thread = threading.Thread(target=self._follow, name=f"mirror-{path.rsplit('/', 1)[-1]}", daemon=True)
        self._thread.start()

    def objects(self) -> Sequence[Object]:
        """Return all objects; raise UnavailableError before the first list of them."""
        with self._lock:
            if not self._listed:
                raise UnavailableError(self._trouble or "The Kubernetes API has not been asked yet.")
            return list(self._objects.values())

    def get(self, name: str) -> Object | None:
        """Return an object by name, None if it is not known."""
        with self._lock:
            return self._objects.get(name)

    def close(self) -> None:
        """Stop following; the thread ends with its stream."""
        self._ended.set()

    def _follow(self) -> None:
        pause = _LEAST_PAUSE
        version = ""
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                if not version:
                    version = self._list()
                version = self._watch(version)
                # A stream that ends at once, again and again, must not be asked for in a loop.
                pause = _LEAST_PAUSE if time.monotonic() - began > 1.0 else min(2 * pause, _LONGEST_PAUSE)
            except (ApiError, UnavailableError) as error:
                version = ""
                gone = isinstance(error, ApiError) and error.status == 410
                pause = _LEAST_PAUSE if gone else min(2 * pause, _LONGEST_PAUSE)
                self._trouble = f"The Kubernetes API does not tell what runs: {error}"
                _log.log(logging.INFO if gone else logging.WARNING, "the objects are listed again: %s", error)
            except Exception:
                version = ""
                pause = _LONGEST_PAUSE
                _log.exception("following the cluster failed; trying again")
            self._ended.wait(pause)

    def _list(self) -> str:
        """Replace everything by what the API lists; return the version of the list."""
        objects: dict[str, Object] = {}
        query = {"labelSelector": self._selector, "limit": _PAGE}
        while True:
            answer = self._api.get(self._path, **query)
            objects |= {content["metadata"]["name"]: content for content in answer.get("items", ())}
            metadata = answer.get("metadata", {})
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        with self._lock:
            self._objects, self._listed, self._trouble = objects, True, ""
        return str(metadata.get("resourceVersion", ""))

    def _watch(self, version: str) -> str:
        """Follow the changes after a version until the stream ends; return the version that is reached."""
        for kind, content in self._api.watch(self._path, labelSelector=self._selector, resourceVersion=version):
            metadata = content.get("metadata", {})
            version = str(metadata.get("resourceVersion", version))
            with self._lock:
                if kind == "DELETED":
                    self._objects.pop(metadata["name"], None)
                elif kind != "BOOKMARK":
                    self._objects[metadata["name"]] = content
            if self._ended.is_set():
                break
        return version
