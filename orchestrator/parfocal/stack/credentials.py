"""The keys of a stack's store: random, made once, in files that only their owner can read."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parfocal.runtime.errors import NotFoundError, PreconditionError
from parfocal.stack.config import Buckets, write_atomically


class Key(BaseModel):
    """A key of the store, which S3 requests are signed with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key: str = Field(repr=False)
    secret_key: str = Field(repr=False)


def new_key() -> Key:
    """Return a random key."""
    return Key(access_key=secrets.token_hex(10), secret_key=secrets.token_hex(20))


class Credentials(Key):
    """The keys of the store; never part of a log or of stack.json. Clients have none.

    Parameters
    ----------
    access_key, secret_key
        The key of the stack itself, which may do everything: it makes the buckets.
    services, catalog
        The keys of the method services and of the catalogue, which may do in the buckets what they have to.
    filer_key
        Closes the S3 server's internal HTTP interface, which would otherwise show the files to any local program.
    """

    filer_key: str = Field(repr=False)
    # An older Parfocal made none.
    prefect_key: str = Field(default_factory=lambda: secrets.token_hex(16), repr=False)
    services: Key = Field(default_factory=new_key)
    catalog: Key = Field(default_factory=new_key)

    @property
    def prefect_auth(self) -> str:
        """User and password of Prefect's API and pages, as its auth string has them."""
        return f"parfocal:{self.prefect_key}"


def credentials_path(folder: Path) -> Path:
    """Return where the keys of the stack in `folder` are kept."""
    return folder / "credentials.json"


def store_settings_path(folder: Path) -> Path:
    """Return where the S3 server reads who may use it."""
    return folder / "s3.json"


def load_credentials(folder: Path) -> Credentials:
    """Return the keys of the stack in `folder`.

    Raises
    ------
    NotFoundError
        No stack was ever started there.
    PreconditionError
        The file was damaged.
    """
    path = credentials_path(folder)
    try:
        return Credentials.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: start the stack with `parfocal up` first.") from error
    except ValidationError:
        # The message of pydantic would show the keys.
        raise PreconditionError(
            f"{path} is damaged. Put back a copy, or delete it: `parfocal up` then makes new keys; "
            "the data in the store stay readable."
        ) from None


def ensure_credentials(folder: Path, buckets: Buckets | None = None) -> Credentials:
    """Return the keys of the stack in `folder`, made now if there are none, and write the S3 server's settings."""
    path = credentials_path(folder)
    if path.exists():
        credentials = load_credentials(folder)
    else:
        credentials = Credentials(**new_key().model_dump(), filer_key=secrets.token_hex(16))
    write_atomically(path, credentials.model_dump_json(indent=2) + "\n")
    settings = _store_settings(credentials, buckets or Buckets())
    write_atomically(store_settings_path(folder), json.dumps(settings, indent=2) + "\n")
    return credentials


def _store_settings(credentials: Credentials, buckets: Buckets) -> dict[str, object]:
    """Return who may do what in the store. Datasets come into being through the catalogue alone."""
    every = [*buckets.model_dump().values()]
    allowed = {
        "parfocal": (credentials, ["Admin", "Read", "Write", "List", "Tagging"]),
        "services": (credentials.services, _actions(every, [name for name in every if name != buckets.datasets])),
        "catalog": (credentials.catalog, _actions(every, [name for name in every if name != buckets.derived])),
    }
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": key.access_key, "secretKey": key.secret_key}],
                "actions": actions,
            }
            for name, (key, actions) in allowed.items()
        ]
    }


def _actions(readable: Sequence[str], writable: Sequence[str]) -> list[str]:
    """Return what may be done in buckets as SeaweedFS says it."""
    reading = [f"{action}:{name}" for name in readable for action in ("Read", "List")]
    return [*reading, *(f"Write:{name}" for name in writable)]
