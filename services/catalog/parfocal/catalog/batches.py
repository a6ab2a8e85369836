"""The ledgers of batches: who has taken which image of a folder, and how each came to its end.

A ledger stands in the store, beside the results of its project: what is done (`batch.json`), an object for each image
that was taken (`taken/`), and one for each that came to its end (`ended/`), which is created once and never changed.
An image is known by its name, size and ETag: one that was written anew under the same name is another one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parfocal import v1
from parfocal.catalog.entries import each
from parfocal.catalog.places import has_job
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    Violation,
)
from parfocal.runtime.images.files import IMAGE_SUFFIXES
from parfocal.runtime.store.confinement import check_folders, confine
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.names import check_name, check_request_id, is_job_id, is_name
from parfocal.runtime.store.store import Location, ObjectInfo, Store

LEDGERS: Final = "_batches"
"""Folder of a project's results with the ledgers."""
MOST_INPUTS: Final = 500
"""Images that one call takes or brings to their end."""
_COLUMNS: Final = ("input", "sha256", "state", "prediction", "model", "job", "seconds", "reason", "verdict")
_THEN: Final = " > "


class Opened(BaseModel):
    """Between which folders a batch works, and who opened it first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    output: str
    created_by: str
    created_at: datetime


class Taken(BaseModel):
    """An image that a job was to predict."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: str
    job: str
    tries: int = Field(description="How many jobs have had it, this one included.")
    since: datetime


class Ended(BaseModel):
    """How an image came to its end: predicted, or given up for a reason."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: str
    sha256: str = ""
    state: Literal["predicted", "failed"]
    job: str = Field(default="", description="The job of the last step.")
    jobs: tuple[str, ...] = Field(default=(), description="Those of all steps.")
    models: tuple[str, ...] = ()
    outputs: Mapping[str, str] = Field(default_factory=dict, description="Address of each output by its kind.")
    seconds: float = 0.0
    reason: str = ""


class Batches:
    """Opens the ledgers of all projects; safe to use from several threads and instances."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def open(self, project: str, batch: str, source_uri: str, output_uri: str, who: str) -> Ledger:
        """Open a ledger, or return the one that was opened with the same folders.

        Raises
        ------
        InvalidInputError
            Results would lie among the images or images among results, outside of the project's results, or in a
            published result.
        NotFoundError
            The source is no place that the project can read.
        AlreadyExistsError
            The batch was opened with other folders.
        """
        source = confine(self._store, project, source_uri, "source_uri")
        output = Location.parse(output_uri)
        check_folders(source, output)
        folder = self._folder(project, batch)
        opened = Opened(source=str(source), output=str(output), created_by=who, created_at=datetime.now(UTC))
        check_output(self._store, project, output)
        try:
            self._store.create(folder / "batch.json", opened.model_dump_json(indent=2).encode())
        except ConflictError:
            known = self._opened(folder)
            if (known.source, known.output) != (opened.source, opened.output):
                text = f"The batch {batch!r} is one from {known.source} to {known.output}. Choose another name for it."
                raise AlreadyExistsError(text, [Violation("batch", text)]) from None
        return Ledger(self._store, project, folder, source, output)

    def find(self, project: str, batch: str) -> Ledger:
        """Return the ledger of a batch that was opened, after looking that its folders may still be used."""
        folder = self._folder(project, batch)
        opened = self._opened(folder)
        # Whoever writes to the store may have changed the record, and the inboxes of a project may have changed.
        source = confine(self._store, project, opened.source, "batch")
        output = Location.parse(opened.output)
        check_output(self._store, project, output)
        return Ledger(self._store, project, folder, source, output)

    def _folder(self, project: str, batch: str) -> Location:
        return self._store.results / check_name("project", project) / LEDGERS / check_request_id(batch)

    def _opened(self, folder: Location) -> Opened:
        place = folder / "batch.json"
        try:
            return Opened.model_validate_json(self._store.read(place))
        except NotFoundError as error:
            raise NotFoundError(f"There is no batch {folder.name!r}: open it.") from error
        except ValidationError as error:
            raise DamagedError(f"{place} is damaged. Restore it from a backup, or remove it.") from error


def check_output(store: Store, project: str, output: Location) -> None:
    """Raise InvalidInputError unless the outputs have a folder of their own among the project's results."""
    root = store.results / check_name("project", project)
    name = str(output).removeprefix(f"{root}/").split("/")[0]
    if not str(output).startswith(f"{root}/") or not is_name(name):
        text = (
            f"Results cannot be written to {output}. Choose a folder of this project's results, for example "
            f"{root}/microscope-1."
        )
        raise InvalidInputError(text, [Violation("output_uri", text)])
    if store.exists(root / name / RESULT_MANIFEST) or (is_job_id(name) and has_job(store, project, name)):
        text = (
            f"{root / name} is the result of a job, which is never changed. Choose another folder, for example "
            f"{root}/microscope-1."
        )
        raise InvalidInputError(text, [Violation("output_uri", text)])


class Ledger:
    """The ledger of one batch."""

    def __init__(self, store: Store, project: str, folder: Location, source: Location, output: Location) -> None:
        self._store, self._project = store, project
        self._folder, self._source, self._output = folder, source, output

    def inputs(self, *, brief: bool) -> Iterator[list[v1.BatchInput]]:
        """Yield the images of the folder in order of names, some hundreds at a time; `brief` leaves out their state."""
        taken, ended = (set[str](), set[str]()) if brief else (self._ids("taken"), self._ids("ended"))
        part: list[v1.BatchInput] = []
        for item in self._store.objects(self._source):
            if item.is_folder or not item.location.name.lower().endswith(IMAGE_SUFFIXES):
                continue
            part.append(self._input(item))
            if len(part) == MOST_INPUTS:
                yield self._with_states(part, taken, ended, brief=brief)
                part = []
        if part:
            yield self._with_states(part, taken, ended, brief=brief)

    def take(self, job: str, inputs: Sequence[v1.BatchInput]) -> list[str]:
        """Take images for a job; return the names of those that nobody else has taken since they were listed."""
        check_request_id(job)
        now = datetime.now(UTC)

        def take(item: v1.BatchInput) -> str | None:
            place = self._folder / "taken" / self._id(item)
            mark = Taken(input=item.name, job=job, tries=item.tries + 1, since=now)
            try:
                if item.mark:
                    self._store.replace(place, mark.model_dump_json().encode(), item.mark)
                else:
                    self._store.create(place, mark.model_dump_json().encode())
            except ConflictError:
                # The answer to an earlier call may have been lost on its way.
                found = self._taken(item)
                return item.name if found is not None and found[0].job == job else None
            return item.name

        return [name for name in each(take, self._checked(inputs)) if name is not None]

    def sizes(self, outcomes: Sequence[v1.BatchOutcome]) -> dict[Location, int]:
        """Return what the delivery of outputs will store where, in bytes; what is missing is left out."""

        def size(output: v1.BatchOutput) -> tuple[Location, int] | None:
            try:
                return self._output / output.name, self._store.stat(self._made(output)).size
            except NotFoundError:
                return None

        return dict(filter(None, each(size, [output for outcome in outcomes for output in outcome.outputs])))

    def end(self, table: str, outcomes: Sequence[v1.BatchOutcome]) -> tuple[list[str], dict[str, str]]:
        """Deliver outputs and record how images came to their end.

        Returns
        -------
        tuple
            The names of the images that this call brought to their end, and the images whose outputs are no longer in
            the store, with the address of the first such output.
        """
        check_request_id(table)
        self._checked([outcome.input for outcome in outcomes])
        missing: dict[str, str] = {}

        def deliver(outcome: v1.BatchOutcome) -> Ended | None:
            outputs: dict[str, str] = {}
            for output in outcome.outputs:
                made, target = self._made(output), self._output / output.name
                try:
                    self._store.copy(made, target)
                except NotFoundError:
                    missing[outcome.input.name] = str(made)
                    return None
                outputs.setdefault(output.kind, str(target))
            return Ended(
                input=outcome.input.name,
                sha256=outcome.sha256,
                state="failed" if outcome.reason else "predicted",
                job=outcome.jobs[-1] if outcome.jobs else "",
                jobs=tuple(outcome.jobs),
                models=tuple(outcome.model_uris),
                outputs=outputs,
                seconds=outcome.seconds,
                reason=outcome.reason,
            )

        delivered = [
            (outcome, ended)
            for outcome, ended in zip(outcomes, each(deliver, outcomes), strict=True)
            if ended is not None
        ]
        # First the table, which a repeated call writes again: what is recorded as ended stands in one.
        if delivered:
            self._write_table(table, [ended for _, ended in delivered])

        def record(item: tuple[v1.BatchOutcome, Ended]) -> str | None:
            outcome, ended = item
            try:
                self._store.create(self._folder / "ended" / self._id(outcome.input), ended.model_dump_json().encode())
            except ConflictError:
                return None
            return outcome.input.name

        return [name for name in each(record, delivered) if name is not None], missing

    def pace(self) -> float:
        """Return the seconds that an image of the newest job took; 0 where that is not known."""
        try:
            return float(self._store.read_json(self._folder / "pace.json")["seconds_per_image"])
        except (ParfocalError, KeyError, TypeError, ValueError):
            return 0.0

    def note_pace(self, seconds_per_image: float) -> None:
        """Keep what an image took."""
        self._store.write(self._folder / "pace.json", json.dumps({"seconds_per_image": seconds_per_image}).encode())

    def _made(self, output: v1.BatchOutput) -> Location:
        """Return where an output lies now: among the results of the project."""
        made = confine(self._store, self._project, output.uri, "uri")
        return made.within(self._store.results / self._project)

    def _input(self, item: ObjectInfo) -> v1.BatchInput:
        name = item.location.key.removeprefix(f"{self._source.key}/")
        return v1.BatchInput(name=name, size=item.size, etag=item.etag)

    def _with_states(
        self, items: list[v1.BatchInput], taken: set[str], ended: set[str], *, brief: bool
    ) -> list[v1.BatchInput]:
        if brief:
            return items

        def stand(item: v1.BatchInput) -> v1.BatchInput:
            identifier = self._id(item)
            item.state = v1.BATCH_INPUT_STATE_NEW
            if identifier in ended:
                item.state = v1.BATCH_INPUT_STATE_ENDED
            elif identifier in taken and (found := self._taken(item)) is not None:
                mark, etag = found
                item.state, item.mark = v1.BATCH_INPUT_STATE_TAKEN, etag
                item.job, item.tries = mark.job, mark.tries
                item.taken_at.FromDatetime(mark.since)
            return item

        return each(stand, items)

    def _ids(self, part: Literal["taken", "ended"]) -> set[str]:
        return {item.location.name for item in self._store.objects(self._folder / part)}

    def _taken(self, item: v1.BatchInput) -> tuple[Taken, str] | None:
        place = self._folder / "taken" / self._id(item)
        try:
            data, etag = self._store.read_versioned(place)
            return Taken.model_validate_json(data), etag
        except NotFoundError:
            return None
        except ValidationError as error:
            raise DamagedError(f"{place} is damaged. Remove it: the image is then predicted again.") from error

    @staticmethod
    def _id(item: v1.BatchInput) -> str:
        """Return the name of an image in the ledger."""
        text = f"{item.name}\n{item.size}\n{item.etag}"
        return hashlib.sha256(text.encode()).hexdigest()[:40] + ".json"

    @staticmethod
    def _checked(inputs: Sequence[v1.BatchInput]) -> Sequence[v1.BatchInput]:
        if len(inputs) > MOST_INPUTS:
            text = f"{len(inputs)} images at a time, but at most {MOST_INPUTS} are taken; ask several times"
            raise InvalidInputError(f"These are {text}.", [Violation("inputs", text)])
        return inputs

    def _write_table(self, name: str, ends: Sequence[Ended]) -> None:
        """Write a table, or add to it what is not in it: several runs may deliver the images of one job together."""
        jobs = sorted({job for ended in ends for job in ended.jobs})
        verdicts = dict(zip(jobs, each(self._verdict, jobs), strict=True))
        new = {
            ended.input: [str(cell) for cell in (*_row(ended), _THEN.join(verdicts[job] for job in ended.jobs))]
            for ended in ends
        }
        place = self._output / "manifests" / f"{name}.csv"
        while True:
            try:
                data, etag = self._store.read_versioned(place)
            except NotFoundError:
                data, etag = b"", ""
            known = list(csv.reader(io.StringIO(data.decode(errors="replace"))))[1:]
            rows = {row[0]: row for row in known if row} | new
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(_COLUMNS)
            writer.writerows(rows[key] for key in sorted(rows))
            try:
                if etag:
                    self._store.replace(place, text.getvalue().encode(), etag)
                else:
                    self._store.create(place, text.getvalue().encode())
            except ConflictError:
                continue
            return

    def _verdict(self, job: str) -> str:
        """Return the verdict on a job's model at that time, as its result says it; "" where there is none."""
        if not is_job_id(job):
            return ""
        try:
            result = ResultManifest.at(self._store, self._store.results / self._project / job)
        except DamagedError:
            return ""
        return str(result.verdict.get("state", "")) if result is not None else ""


def _row(ended: Ended) -> list[Any]:
    prediction = next(iter(ended.outputs.values()), "")
    models, jobs = _THEN.join(ended.models), _THEN.join(ended.jobs)
    return [ended.input, ended.sha256, ended.state, prediction, models, jobs, f"{ended.seconds:.3f}", ended.reason]
