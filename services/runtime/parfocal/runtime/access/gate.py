"""Decides who may call what. A server has one gate and asks it once for each call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from parfocal.runtime.access.actions import ACTIONS, Action
from parfocal.runtime.access.calls import Call, current
from parfocal.runtime.access.identity import EVERYONE, UNVERIFIED, Identity, Role
from parfocal.runtime.access.policy import Limits, Machines, Policy, read_machines, read_policy
from parfocal.runtime.access.tokens import Verifier
from parfocal.runtime.errors import (
    NotFoundError,
    ParfocalError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
#: Metadata of a call: the token, and whom an operator acts for.
TOKEN_KEY: Final = "authorization"
ACTS_FOR_KEY: Final = "parfocal-acts-for"
_RELOAD_SECONDS = 5.0
_LONGEST_NAME = 200


class Gate:
    """Who somebody is and what they may do, as the access file says. Safe to use from several threads.

    A changed file counts within seconds. One that has become unusable is logged, and the one before goes on counting.

    Raises
    ------
    PreconditionError
        A file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._files: tuple[Path | None, Path | None] = (settings.access_file, settings.tokens_file)
        if settings.tokens_file is not None and settings.access_file is None:
            raise PreconditionError("PARFOCAL_TOKENS_FILE is set, but PARFOCAL_ACCESS_FILE, which names roles, is not.")
        self._reloading = threading.Lock()
        self._looked = time.monotonic()
        self._stamp = self._stamps()
        self._policy, self._verifier = self._load(None)

    @property
    def is_open(self) -> bool:
        """Whether there are no identities, so that everybody may do everything."""
        return self._files[0] is None

    @property
    def policy(self) -> Policy:
        """The access file as it counts now."""
        self._reload()
        return self._policy

    def knows(self, identity: Identity, project: str) -> bool:
        """Return whether somebody may know of a project."""
        return self.is_open or self.policy.role(identity, project) is not None

    def limits(self, project: str) -> Limits:
        """Return what a project may use."""
        return self.policy.limits(project)

    def require(self, identity: Identity, project: str, action: Action) -> None:
        """Raise what a service would answer if somebody may not do something in a project.

        Raises
        ------
        NotFoundError
            They have no role in the project: whether it exists is none of their business.
        PermissionDeniedError
            Their role is not enough.
        """
        if not self.is_open:
            self._require(Call("", self, identity), project, action, self._role(identity, project))

    def identify(self, metadata: Mapping[str, str | bytes]) -> Identity:
        """Return who sent a call with this metadata; it may ask the issuer, so servers call it in threads.

        Raises
        ------
        UnauthenticatedError
            There is no token, or it is not accepted.
        UnavailableError
            It cannot be checked at the moment.
        """
        if self.is_open:
            return UNVERIFIED
        self._reload()
        value = metadata.get(TOKEN_KEY, "")
        scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
        if not token:
            raise UnauthenticatedError("Parfocal asks here who you are. Log in: `parfocal login`.")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("The metadata `authorization` must be `Bearer TOKEN`.")
        return self._verifier.verify(token.strip())

    def admit(self, call: Call) -> None:
        """Decide about a call that no servicer of Parfocal's answers; the others call `authorise`.

        Raises
        ------
        PermissionDeniedError
            The caller has no role anywhere, or nobody has said what the call requires.
        """
        action = self._action(call)
        if action is Action.PROBE:
            call.authorised = True
        elif not call.rpc.startswith("/parfocal."):
            self.decide_anywhere(call)

    def decide_anywhere(self, call: Call) -> None:
        """Let a call pass that is about no project; see `authorise_anywhere`."""
        self._action(call)
        if not self.is_open and not self.policy.has_any_role(call.identity):
            raise PermissionDeniedError(
                f"You are {call.identity.name}, but have no role in any project here. "
                "Ask whoever runs Parfocal for you."
            )
        call.authorised = True

    async def decide(self, call: Call, owner: Callable[[], Awaitable[str]] | None) -> None:
        """Let a call about a project pass; see `authorise`."""
        action, project = self._action(call), call.project
        if not self.is_open:
            role = self._acting_role(call, self._role(call.identity, project), project)
            self._require(call, project, action, role)
            if action is Action.CHANGE and role < Role.OPERATOR and owner is not None:
                made_by = await owner()
                if made_by != call.author:
                    raise PermissionDeniedError(
                        f"{call.target} was made by {made_by}. Users of the project {project!r} may change only what "
                        "they have made themselves; ask them, or an operator."
                    )
        call.authorised = True

    def _role(self, identity: Identity, project: str) -> Role:
        role = self.policy.role(identity, project)
        if role is None:
            raise NotFoundError(f"There is no project {project!r} in which you ({identity.name}) have a role.")
        return role

    def _acting_role(self, call: Call, role: Role, project: str) -> Role:
        """Return the role that counts: the caller's own, or that of whom an operator acts for."""
        if not call.acts_for or call.acts_for == call.identity.name:
            call.acts_for = ""
            return role
        name = call.acts_for
        if role < Role.OPERATOR:
            raise PermissionDeniedError(f"Only operators of the project {project!r} may act for {name!r}.")
        if len(name) > _LONGEST_NAME or not name.isprintable() or name == EVERYONE:
            raise PermissionDeniedError("The metadata `parfocal-acts-for` must be the name of a person or machine.")
        # Their groups stand in their own token alone: whom the file does not name counts as a user.
        return self.policy.role(Identity(name), project) or Role.USER

    @staticmethod
    def _require(call: Call, project: str, action: Action, role: Role) -> None:
        if action.role is not None and role < action.role:
            who = f"{call.acts_for}, for whom you act, is" if call.acts_for else f"You ({call.identity.name}) are"
            raise PermissionDeniedError(
                f"{who} a {role.title} of the project {project!r}; {action.text} requires the role "
                f"{action.role.title}. Ask an operator of the project."
            )

    @staticmethod
    def _action(call: Call) -> Action:
        try:
            return ACTIONS[call.rpc]
        except KeyError:
            raise PermissionDeniedError(f"Nobody has said who may call {call.rpc}, so nobody may.") from None

    def _reload(self) -> None:
        if (
            self.is_open
            or time.monotonic() - self._looked < _RELOAD_SECONDS
            or not self._reloading.acquire(blocking=False)
        ):
            return
        try:
            self._looked = time.monotonic()
            stamp = self._stamps()
            if stamp != self._stamp:
                self._stamp = stamp
                self._policy, self._verifier = self._load(self._verifier)
                _log.info("the access file was read again")
        except ParfocalError as error:
            _log.error("%s The roles and tokens from before go on counting.", error)
        finally:
            self._reloading.release()

    def _load(self, before: Verifier | None) -> tuple[Policy, Verifier]:
        policy = read_policy(self._files[0]) if self._files[0] is not None else Policy()
        machines = read_machines(self._files[1]) if self._files[1] is not None else Machines()
        return policy, Verifier(policy.issuers, machines, before)

    def _stamps(self) -> tuple[object, ...]:
        stamps: list[object] = []
        for path in self._files:
            try:
                state = path.stat() if path is not None else None
            except OSError:
                state = None
            # The inode as well: a mounted ConfigMap is replaced as a whole, and both may have the same time.
            stamps.append((state.st_mtime_ns, state.st_ino, state.st_size) if state is not None else None)
        return tuple(stamps)


async def authorise(project: str, target: str = "", owner: Callable[[], Awaitable[str]] | None = None) -> Call:
    """Return the present call if its caller may make it; its RPC says what that requires (`actions`).

    Every servicer calls this, or `authorise_anywhere`, before it does anything else.

    Parameters
    ----------
    project
        What the call is about.
    target
        Job, model or dataset within the project, for the audit log.
    owner
        Tells who has made what is to be changed; asked only where it matters.

    Raises
    ------
    NotFoundError
        The caller has no role in the project: whether it exists is none of their business.
    PermissionDeniedError
        Their role is not enough.
    """
    call = current()
    call.project, call.target = project, target
    await call.gate.decide(call, owner)
    return call


def authorise_anywhere() -> Call:
    """Return the present call, which is about no project, if its caller has a role anywhere.

    Raises
    ------
    PermissionDeniedError
        They have none.
    """
    call = current()
    call.gate.decide_anywhere(call)
    return call
