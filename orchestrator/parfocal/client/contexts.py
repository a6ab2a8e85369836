"""Contexts: which Parfocal a person works with, in which project, and who they are there.

They lie in `contexts.json` of Parfocal's folder, and the tokens of logins beside it in `tokens.json`; both are readable
by their owner only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parfocal.runtime.errors import InvalidInputError, NotFoundError, PreconditionError
from parfocal.runtime.store.names import check_name

_M = TypeVar("_M", bound=BaseModel)
#: What the Parfocal of this computer is called among the contexts.
LOCAL: Final = "local"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Context(_Kept):
    """One installation as one person uses it.

    Attributes
    ----------
    services
        host:port,… of its services.
    catalog
        host:port of its catalogue; empty where it has none.
    project
        Project to work in.
    user
        Who has logged in, as their token names them; empty before.
    tls_ca
        As the setting of this name.
    issuer, client_id, scopes, login_token
        Where and how to log in; empty where static tokens are used.
    """

    services: str
    catalog: str = ""
    project: str = "default"
    user: str = ""
    tls_ca: str = ""
    issuer: str = ""
    issuer_ca: str = ""
    client_id: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email", "offline_access")
    login_token: str = "access_token"


class Contexts(_Kept):
    """All contexts by name, and the one in use."""

    current: str = ""
    contexts: Mapping[str, Context] = Field(default_factory=dict)

    def named(self, name: str) -> Context:
        """Return a context; raise NotFoundError naming those there are."""
        try:
            return self.contexts[name]
        except KeyError:
            there = ", ".join(self.contexts) or "none"
            raise NotFoundError(f"There is no context {name!r} (there: {there}). Make it: `parfocal login`.") from None


class LoginTokens(_Kept):
    """What a login has given: the token to show, until when it is good, and that to renew it with."""

    token: str = Field(repr=False)
    expires_at: float
    refresh_token: str = Field(default="", repr=False)


class _AllTokens(_Kept):
    tokens: Mapping[str, LoginTokens] = Field(default_factory=dict)


class ContextFolder:
    """The contexts and tokens in a folder, which is made when something is kept there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> Contexts:
        """Return all contexts; raise PreconditionError if the file was damaged."""
        return self._read("contexts.json", Contexts)

    def keep(self, name: str, context: Context, *, use: bool = True) -> None:
        """Add or replace a context, and use it from now on."""
        if check_name("context", name) == LOCAL:
            raise InvalidInputError(f"{LOCAL!r} is the Parfocal of this computer: choose another name.")
        with self._locked():
            known = self.read()
            current = name if use else known.current
            self._write("contexts.json", Contexts(current=current, contexts={**known.contexts, name: context}))

    def use(self, name: str) -> None:
        """Use a context from now on, or, with LOCAL, none; raise NotFoundError if there is none of this name."""
        with self._locked():
            known = self.read()
            if name != LOCAL:
                known.named(name)
            self._write("contexts.json", known.model_copy(update={"current": "" if name == LOCAL else name}))

    def tokens(self, name: str) -> LoginTokens | None:
        """Return the tokens of a context; None before a login."""
        return self._read("tokens.json", _AllTokens).tokens.get(name)

    def keep_tokens(self, name: str, tokens: LoginTokens | None) -> None:
        """Replace the tokens of a context; None removes them."""
        with self._locked():
            known = dict(self._read("tokens.json", _AllTokens).tokens)
            known.pop(name, None)
            self._write("tokens.json", _AllTokens(tokens=known | ({name: tokens} if tokens is not None else {})))

    @contextlib.contextmanager
    def renewing(self) -> Iterator[None]:
        """Let only one process renew tokens at a time: many issuers take a refresh token only once."""
        with self._lock("renew.lock"):
            yield

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return self._lock("contexts.lock")

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self, name: str, model: type[_M]) -> _M:
        path = self._folder / name
        try:
            return model.model_validate_json(path.read_text("utf-8"))
        except FileNotFoundError:
            return model()
        except (ValidationError, UnicodeDecodeError):
            # The message of pydantic would show tokens.
            raise PreconditionError(f"{path} is damaged. Delete it, and log in again: `parfocal login`.") from None

    def _write(self, name: str, content: BaseModel) -> None:
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(content.model_dump(mode="json"), stream, indent=2)
            Path(temporary).replace(self._folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
