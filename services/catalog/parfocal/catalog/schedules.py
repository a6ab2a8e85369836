"""What schedules may do, and for whom: recorded when they are made, and looked at before each of their runs.

Prefect keeps when a schedule runs. Whoever has Prefect's password can change what it says there, so what a run may do
stands here, in the results of the project: its models, the folders that it looks at and writes to, and who made it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal import v1
from parfocal.catalog.batches import check_output
from parfocal.runtime.access.calls import Call
from parfocal.runtime.access.gate import Gate
from parfocal.runtime.access.identity import Identity, Role
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    Violation,
)
from parfocal.runtime.images.taken import Taken
from parfocal.runtime.store.confinement import check_folders, confine, confine_model
from parfocal.runtime.store.names import check_name
from parfocal.runtime.store.store import Location, Store

SCHEDULES: Final = "_schedules"
"""Folder of a project's results with the records of its schedules."""
_MOST_STEPS: Final = 8


class Record(BaseModel):
    """A schedule as it is stored; `groups` are those that its maker belonged to then, `taken` is a message as JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    source: str
    output: str
    steps: tuple[tuple[str, str], ...]
    created_by: str
    created_at: datetime
    groups: tuple[str, ...] = ()
    taken: str = ""

    def message(self) -> v1.Schedule:
        """Return it in the words of the contract."""
        schedule = v1.Schedule(
            name=self.name, source_uri=self.source, output_uri=self.output, created_by=self.created_by
        )
        for model_uri, parameters in self.steps:
            json_format.Parse(parameters, schedule.steps.add(model_uri=model_uri).parameters)
        if self.taken:
            json_format.Parse(self.taken, schedule.taken)
        schedule.created_at.FromDatetime(self.created_at)
        return schedule


class Schedules:
    """The records of all schedules."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, project: str, schedule: v1.Schedule, call: Call) -> Record:
        """Record a schedule of the caller's.

        Raises
        ------
        AlreadyExistsError
            There is one of this name.
        InvalidInputError, NotFoundError
            It has no steps, an address that the project cannot use, no folder of its own for the results, or takes
            something of images that they cannot have.
        """
        place = self._place(project, schedule.name)
        source = confine(self._store, project, schedule.source_uri, "schedule.source_uri")
        output = Location.parse(schedule.output_uri)
        check_folders(source, output)
        check_output(self._store, project, output)
        if not 1 <= len(schedule.steps) <= _MOST_STEPS:
            text = f"A schedule has 1 to {_MOST_STEPS} steps, not {len(schedule.steps)}."
            raise InvalidInputError(text, [Violation("schedule.steps", text)])
        for step in schedule.steps:
            confine_model(self._store, step.model_uri, "schedule.steps.model_uri")
        Taken.of_message(schedule.taken, "schedule.taken")
        record = Record(
            name=schedule.name,
            source=str(source),
            output=str(output),
            steps=tuple((step.model_uri, json_format.MessageToJson(step.parameters)) for step in schedule.steps),
            created_by=call.author,
            created_at=datetime.now(UTC),
            groups=() if call.acts_for else tuple(sorted(call.identity.groups)),
            taken=json_format.MessageToJson(schedule.taken) if schedule.HasField("taken") else "",
        )
        try:
            self._store.create(place, record.model_dump_json(indent=2).encode())
        except ConflictError as error:
            if (known := self.read(project, schedule.name)).model_copy(
                update={"created_at": record.created_at}
            ) == record:
                return known  # a repeated call
            text = f"There is a schedule named {schedule.name!r} already. Choose another name, or delete it first."
            raise AlreadyExistsError(text, [Violation("schedule.name", text)]) from error
        return record

    def read(self, project: str, name: str) -> Record:
        """Return a schedule; raise NotFoundError where there is none of this name."""
        place = self._place(project, name)
        try:
            record = Record.model_validate_json(self._store.read(place))
            record.message()
        except NotFoundError as error:
            raise NotFoundError(
                f"There is no record of a schedule named {name!r} in the project {project!r}."
            ) from error
        except (ValidationError, json_format.ParseError) as error:
            raise DamagedError(f"{place} is damaged. Remove it and create the schedule again.") from error
        return record

    def delete(self, project: str, name: str) -> None:
        """Remove a record; a missing one is ignored."""
        self._store.delete(self._place(project, name))

    def _place(self, project: str, name: str) -> Location:
        return self._store.results / project / SCHEDULES / f"{check_name('schedule', name)}.json"


def refusal(gate: Gate, project: str, record: Record) -> str:
    """Return in a sentence why a schedule may no longer run: its maker's role is gone. "" while it may.

    Groups stand in people's tokens alone, so those count that the maker belonged to when the schedule was made.
    """
    if gate.is_open:
        return ""
    role = gate.policy.role(Identity(record.created_by, frozenset(record.groups)), project)
    if role is None:
        return (
            f"{record.created_by}, who made the schedule {record.name!r}, has no role in the project {project!r} any "
            "more. Whoever takes it over deletes it and makes it again."
        )
    if role < Role.USER:
        return (
            f"{record.created_by}, who made the schedule {record.name!r}, is only a {role.title} of the project "
            f"{project!r} by now; predicting requires the role user. Whoever takes it over deletes it and makes it "
            "again."
        )
    return ""
