"""Places that a project may read: the one place where addresses in requests are resolved.

Every address that somebody sends is resolved here before anything is read by it: it must lie in the project's own
datasets, models or results, or in one of its inboxes. An inbox is a bucket and prefix outside Parfocal's own buckets,
for example what a microscope writes to, that the operator lets a project read (setting PARFOCAL_INBOXES).
"""

from __future__ import annotations

from google.protobuf.message import Message

from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation
from parfocal.runtime.store.names import check_name
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
        return Location.parse(uri).within(*readable_places(store, project))
    except (InvalidInputError, NotFoundError) as error:
        text = f"{uri} is not a place that the project {project!r} can read."
        message = error.message if isinstance(error, InvalidInputError) else text
        raise type(error)(message, [Violation(field, message)]) from error


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
