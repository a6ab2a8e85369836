"""The keys of a stack's store: random, made once, in files that only their owner can read."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parfocal.runtime.errors import NotFoundError, PreconditionError
from parfocal.stack.config import write_atomically


class Credentials(BaseModel):
    """The keys of the store; never part of a log or of stack.json.

    Parameters
    ----------
    access_key, secret_key
        What services and clients sign their S3 requests with.
    filer_key
        Closes the S3 server's internal HTTP interface, which would otherwise show the files to any local program.
    prefect_key
        Password of Prefect's API and pages, which ask for one where there are identities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key: str = Field(repr=False)
    secret_key: str = Field(repr=False)
    filer_key: str = Field(repr=False)
    prefect_key: str = Field(default="", repr=False)

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


def ensure_credentials(folder: Path) -> Credentials:
    """Return the keys of the stack in `folder`, made now if there are none, and write the S3 server's settings."""
    path = credentials_path(folder)
    if path.exists():
        credentials = load_credentials(folder)
        path.chmod(0o600)
        if not credentials.prefect_key:
            # Made by a version without it.
            credentials = credentials.model_copy(update={"prefect_key": secrets.token_hex(16)})
            write_atomically(path, credentials.model_dump_json(indent=2) + "\n")
    else:
        credentials = Credentials(
            access_key=secrets.token_hex(10),
            secret_key=secrets.token_hex(20),
            filer_key=secrets.token_hex(16),
            prefect_key=secrets.token_hex(16),
        )
        write_atomically(path, credentials.model_dump_json(indent=2) + "\n")
    identity = {
        "name": "parfocal",
        "credentials": [{"accessKey": credentials.access_key, "secretKey": credentials.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_atomically(store_settings_path(folder), json.dumps({"identities": [identity]}, indent=2) + "\n")
    return credentials
