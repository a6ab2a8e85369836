"""Grants: what a project lets other projects read, dataset by dataset and model by model.

```
<kind>/<project>/.grants/<name>.json          with whom a dataset or model is shared; changed only by If-Match
      /<project>/.shared/<owner>/<name>       marks what another project shares with this one, to list it
```

The grant decides; the mark only leads to it. A grant is for all versions of a dataset or model, also later ones. One
that was withdrawn stays in the file: what was made by it still refers to the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parfocal.runtime.errors import ConflictError, DamagedError, NotFoundError
from parfocal.runtime.store.names import check_name, is_name
from parfocal.runtime.store.store import Location, Store

_GRANTS: Final = ".grants"
_SHARED: Final = ".shared"


class Grant(BaseModel):
    """One project's permission to read a dataset or model.

    Attributes
    ----------
    granted_by, granted_at
        Who gave it, and when.
    withdrawn_by, withdrawn_at
        Who took it back, and when; None as long as it is valid.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    granted_by: str
    granted_at: datetime
    withdrawn_by: str | None = None
    withdrawn_at: datetime | None = None

    @property
    def is_valid(self) -> bool:
        """Whether it has not been withdrawn."""
        return self.withdrawn_at is None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    projects: dict[str, Grant] = Field(default_factory=dict)


class Grants:
    """Reads and changes grants; safe to use from several threads and instances."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, root: Location, owner: str, name: str) -> dict[str, Grant]:
        """Return all grants of a dataset or model by project, also those that were withdrawn.

        Parameters
        ----------
        root
            Bucket of the datasets or of the models.
        owner, name
            The project that it belongs to, and its name.

        Raises
        ------
        DamagedError
            They cannot be read; nobody else can read it then.
        """
        return self._read(_place(root, owner, name))[0].projects

    def allows(self, root: Location, owner: str, name: str, project: str) -> bool:
        """Return whether a project may read what another one owns."""
        grant = self.of(root, owner, name).get(project)
        return grant is not None and grant.is_valid

    def give(self, root: Location, owner: str, name: str, project: str, who: str) -> Grant:
        """Let a project read a dataset or model; return the grant, which may be an earlier one."""
        # First, so that a grant is never without the mark that lists it.
        self._store.write(root / check_name("project", project) / _SHARED / owner / name, b"")

        def given(known: Grant | None) -> Grant:
            if known is not None and known.is_valid:
                return known
            return Grant(granted_by=who, granted_at=datetime.now(UTC))

        return self._change(root, owner, name, project, given)

    def withdraw(self, root: Location, owner: str, name: str, project: str, who: str) -> Grant:
        """Take a grant back; raise NotFoundError where there is none."""

        def withdrawn(known: Grant | None) -> Grant:
            if known is None or not known.is_valid:
                raise NotFoundError(f"{name!r} is not shared with the project {project!r}.")
            return known.model_copy(update={"withdrawn_by": who, "withdrawn_at": datetime.now(UTC)})

        grant = self._change(root, owner, name, project, withdrawn)
        self._store.delete(root / project / _SHARED / owner / name)
        return grant

    def given_by(self, root: Location, owner: str) -> Iterator[tuple[str, str, Grant]]:
        """Yield what a project shares: the name, with which project, and the grant."""
        for item in list(self._store.objects(root / owner / _GRANTS, recursive=False)):
            name = item.location.name.removesuffix(".json")
            if is_name(name):
                for project, grant in sorted(self.of(root, owner, name).items()):
                    if grant.is_valid:
                        yield name, project, grant

    def given_to(self, root: Location, project: str) -> Iterator[tuple[str, str]]:
        """Yield what is shared with a project: the project that owns it, and its name."""
        for item in list(self._store.objects(root / project / _SHARED)):
            owner, name = item.location.parent.name, item.location.name
            if is_name(owner) and is_name(name) and self.allows(root, owner, name, project):
                yield owner, name

    def _change(
        self, root: Location, owner: str, name: str, project: str, change: Callable[[Grant | None], Grant]
    ) -> Grant:
        place = _place(root, owner, name)
        while True:
            known, etag = self._read(place)
            grant = change(known.projects.get(project))
            data = _File(projects={**known.projects, project: grant}).model_dump_json().encode()
            try:
                if etag:
                    self._store.replace(place, data, etag)
                else:
                    self._store.create(place, data)
            except ConflictError:
                continue
            return grant

    def _read(self, place: Location) -> tuple[_File, str]:
        try:
            data, etag = self._store.read_versioned(place)
            return _File.model_validate_json(data), etag
        except NotFoundError:
            return _File(), ""
        except ValidationError as error:
            raise DamagedError(f"{place} cannot be read: restore it from a backup, or remove it.") from error


def _place(root: Location, owner: str, name: str) -> Location:
    return root / check_name("project", owner) / _GRANTS / f"{name}.json"
