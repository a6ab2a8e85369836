"""The objects of the cluster in miniature, numbered as Kubernetes does, with what a watch needs."""

from __future__ import annotations

import copy
import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
KINDS = {"jobs": ("batch/v1", "Job"), "pods": ("v1", "Pod"), "podtemplates": ("v1", "PodTemplate")}


class TooOldError(Exception):
    """The version from which a watch should go on is forgotten."""


class Objects:
    """Stores objects by kind and name. Every change has a number and wakes those who watch."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str], Object] = {}
        self._numbers = itertools.count(1)
        self.version = 0
        self._oldest = 0
        self._log: list[tuple[int, str, str, Object]] = []

    def get(self, kind: str, name: str) -> Object | None:
        with self.changed:
            return copy.deepcopy(self._objects.get((kind, name)))

    def all(self, kind: str, selector: str = "") -> list[Object]:
        with self.changed:
            found = [content for (known, _), content in self._objects.items() if known == kind]
            return [copy.deepcopy(content) for content in found if _selected(content, selector)]

    def create(self, kind: str, content: Object) -> Object | None:
        """Store a new object; None if the name is taken."""
        with self.changed:
            version, name = KINDS[kind]
            content = copy.deepcopy(content) | {"apiVersion": version, "kind": name}
            if (kind, content["metadata"]["name"]) in self._objects:
                return None
            content["metadata"] |= {"uid": uuid.uuid4().hex, "creationTimestamp": now()}
            content.setdefault("status", {})
            return self._store("ADDED", kind, content)

    def change(self, kind: str, name: str, **status: Any) -> Object | None:
        """Change the status of an object; None if it is gone. A value of None removes the field."""
        return self._change(kind, name, "status", status)

    def change_spec(self, kind: str, name: str, **spec: Any) -> Object | None:
        return self._change(kind, name, "spec", spec)

    def change_metadata(self, kind: str, name: str, **metadata: Any) -> Object | None:
        return self._change(kind, name, "metadata", metadata)

    def remove(self, kind: str, name: str) -> None:
        with self.changed:
            content = self._objects.pop((kind, name), None)
            if content is not None:
                self._note("DELETED", kind, content)

    def forget(self) -> None:
        """Forget the past, as the API does after some minutes."""
        with self.changed:
            self._oldest = self.version + 1
            self._log.clear()
            # A change of its own, so that nobody's version is the present one.
            self.version = self._oldest + 1
            self._numbers = itertools.count(self.version + 1)
            self.changed.notify_all()

    def since(self, kind: str, version: int, selector: str) -> list[tuple[int, str, Object]]:
        """Return the changes after a version; raise TooOldError if they are forgotten."""
        with self.changed:
            if version < self._oldest:
                raise TooOldError
            return [
                (number, what, copy.deepcopy(content))
                for number, what, known, content in self._log
                if known == kind and number > version and _selected(content, selector)
            ]

    def _change(self, kind: str, name: str, part: str, values: Object) -> Object | None:
        with self.changed:
            content = self._objects.get((kind, name))
            if content is None:
                return None
            content = copy.deepcopy(content)
            merged = {**content.get(part, {}), **values}
            content[part] = {key: value for key, value in merged.items() if value is not None}
            return self._store("MODIFIED", kind, content)

    def _store(self, what: str, kind: str, content: Object) -> Object:
        self._objects[kind, content["metadata"]["name"]] = content
        self._note(what, kind, content)
        return copy.deepcopy(content)

    def _note(self, what: str, kind: str, content: Object) -> None:
        self.version = next(self._numbers)
        content["metadata"]["resourceVersion"] = str(self.version)
        self._log.append((self.version, what, kind, copy.deepcopy(content)))
        self.changed.notify_all()


def _selected(content: Object, selector: str) -> bool:
    labels = content["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in _pairs(selector))


def _pairs(selector: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, selector.split(",")):
        key, _, value = part.partition("=")
        yield key, value


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
