"""Places that a project may read: the one place where addresses in requests are resolved.

Every address that somebody sends is resolved here before anything is read by it: it must lie in the project's own
datasets, models or results, in a dataset or model that another project shares with it, or in one of its inboxes. An
inbox is a bucket and prefix outside Parfocal's own buckets, for example what a microscope writes to, that the operator
lets a project read (setting PARFOCAL_INBOXES).
"""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from parfocal.runtime.access.calls import current, note_shared
from parfocal.runtime.access.gate import authorise
from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation
from parfocal.runtime.store.grants import Grants
from parfocal.runtime.store.names import check_name, is_name
from parfocal.runtime.store.store import Location, Store


def readable_places(store: Store, project: str) -> tuple[Location, ...]:
    """Return the folders that a project may read."""
    check_name("project", project)
    own = (root / project for root in (store.datasets, store.models, store.results))
    inboxes = (Location.parse(uri) for name, uri in store.settings.inbox_places if name == project)
    return (*own, *inboxes)


def confine(store: Store, project: str, uri: str, field: str) -> Location:
    """Return the place of an address that a project may read.

    Raises
    ------
    InvalidInputError
        It is no address of the store.
    NotFoundError
        It lies elsewhere; whether there is something is not told.
    """
    try:
        place = Location.parse(uri)
        try:
            return place.within(*readable_places(store, project))
        except NotFoundError:
            if not is_shared(store, project, place):
                raise
            note_shared(uri)
            return place
    except (InvalidInputError, NotFoundError) as error:
        text = f"{uri} is not a place that the project {project!r} can read."
        message = error.message if isinstance(error, InvalidInputError) else text
        raise type(error)(message, [Violation(field, message)]) from error


def is_shared(store: Store, project: str, place: Location) -> bool:
    """Return whether a place lies in a dataset or model that another project shares with this one."""
    owner, _, rest = place.key.partition("/")
    name, _, version = rest.partition("/")
    roots = {root.bucket: root for root in (store.datasets, store.models)}
    if place.bucket not in roots or not version or not (is_name(owner) and is_name(name)):
        return False
    return Grants(store).allows(roots[place.bucket], owner, name, project)


async def authorise_reading(store: Store, place: Location, owner: str, target: str) -> str:
    """Let the present call read a dataset or model of a project, also one that is shared with a project it may read.

    Parameters
    ----------
    place
        Where the dataset or model lies, or something in it.
    owner, target
        The project that it belongs to, and what the audit log calls it.

    Returns
    -------
    str
        The project that the caller reads it for.

    Raises
    ------
    NotFoundError, PermissionDeniedError
        As by `authorise`.
    """
    try:
        await authorise(owner, target)
    except NotFoundError:
        call = current()
        for project in await asyncio.to_thread(_readers, store, place):
            if call.gate.knows(call.identity, project):
                await authorise(project, target)
                note_shared(target)
                return project
        await authorise(owner, target)
    return owner


def _readers(store: Store, place: Location) -> list[str]:
    """Return the projects that a dataset or model is shared with."""
    owner, _, rest = place.key.partition("/")
    name = rest.partition("/")[0]
    for root in (store.datasets, store.models):
        if root.bucket == place.bucket and is_name(owner) and is_name(name):
            return [project for project, grant in Grants(store).of(root, owner, name).items() if grant.is_valid]
    return []


def confine_request(store: Store, project: str, request: Message, path: str = "") -> None:
    """Raise an error unless a project may read by all addresses in a request: all its fields named …_uri or …_uris."""
    for field, value in request.ListFields():
        name = f"{path}{field.name}"
        if field.name.endswith(("_uri", "_uris")):
            for uri in [value] if isinstance(value, str) else value:
                confine(store, project, uri, name)
        elif field.message_type is not None and isinstance(value, Message):
            confine_request(store, project, value, f"{name}.")


def confine_model(store: Store, uri: str, field: str) -> Location:
    """Return the place of the address of a model, in whichever project; raise an error as `confine` for any other."""
    try:
        return Location.parse(uri).within(store.models)
    except (InvalidInputError, NotFoundError) as error:
        message = error.message if isinstance(error, InvalidInputError) else f"There is no published model at {uri}."
        raise type(error)(message, [Violation(field, message)]) from error


def check_folders(source: Location, output: Location) -> None:
    """Raise InvalidInputError where outputs would lie among the images that are looked for, or images among outputs."""
    text = ""
    if f"{output}/".startswith(f"{source}/"):
        text = (
            f"The results would be written to {output}, which is inside the folder {source} that is looked at for new "
            "images, so they would be predicted in turn. Choose another folder for the results."
        )
    elif f"{source}/".startswith(f"{output}/"):
        text = (
            f"The folder {source} that is looked at for new images is inside {output}, where the results would be "
            "written and could replace them. Choose another folder for the results."
        )
    if text:
        raise InvalidInputError(text, [Violation("output_uri", text)])
