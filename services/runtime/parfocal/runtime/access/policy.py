"""The access file: who issues tokens, and who has which role in which project."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from parfocal.runtime.access.identity import EVERYONE, GROUP, MACHINE, Identity, Role
from parfocal.runtime.errors import PreconditionError

_M = TypeVar("_M", bound=BaseModel)
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
#: Only signatures of a key pair: whoever can verify such a token cannot make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Issuer(_Table):
    """Who issues tokens to people (OpenID Connect) or to the service accounts of a Kubernetes cluster."""

    issuer: str = Field(description="URL, exactly as the claim `iss` says it")
    audience: tuple[str, ...] = Field(min_length=1, description="a token must be for one of these (claim `aud`)")
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    name_claim: str = Field(default="sub", description="claim that names a person in jobs, models and the audit log")
    groups_claim: str = Field(default="groups", description="claim with a list of groups; a dot leads into an object")
    prefix: str = Field(default="", description="put before names and groups; different for each issuer")
    keys_url: str = Field(default="", description="where its public keys are; empty: as its discovery document says")
    ca_file: Path | None = Field(default=None, description="certificate authority of its address; None: the system's")
    token_file: Path | None = Field(default=None, description="token to read the keys with, as a cluster may ask for")
    client_id: str = Field(default="", description="what `parfocal login` calls itself; empty: nobody logs in here")
    scopes: tuple[str, ...] = Field(default=("openid", "profile", "email", "offline_access"))
    login_token: Literal["access_token", "id_token"] = Field(
        default="access_token", description="which of the tokens of a login the services are sent"
    )

    @field_validator("issuer", "keys_url")
    @classmethod
    def _is_protected(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError(f"{value!r} must be an https URL")
        return value

    @field_validator("audience", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Limits(_Table):
    """What a project may use; None: any amount."""

    active_jobs: int | None = Field(default=None, ge=0, description="jobs that have not ended")
    active_jobs_per_user: int | None = Field(default=None, ge=0, description="the same for each of its users")
    device_hours_per_month: float | None = Field(default=None, ge=0, description="hours of training and prediction")
    stored_gib: float | None = Field(
        default=None, ge=0, description="GiB of datasets, models and results, those of the trash included"
    )
    result_days: float | None = Field(
        default=None,
        ge=0,
        description="days after which predictions and evaluations that can be made again go to the trash; 0: never",
    )


class Project(Limits):
    """Who has which role in a project: names, "group:NAME", "machine:NAME", or "*" for everyone with a token."""

    viewers: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()

    def role(self, subjects: frozenset[str]) -> Role | None:
        """Return the highest role of somebody; None if they have none."""
        for role, members in ((Role.OPERATOR, self.operators), (Role.USER, self.users), (Role.VIEWER, self.viewers)):
            if members & subjects:
                return role
        return None


class Policy(_Table):
    """The access file as a whole; the project "*" stands for every project."""

    issuers: tuple[Issuer, ...] = ()
    projects: Mapping[str, Project] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _are_different(self) -> Policy:
        for field in ("issuer", "prefix"):
            values = [getattr(issuer, field) for issuer in self.issuers]
            if len(set(values)) < len(values):
                raise ValueError(f"issuers: each needs a {field} of its own, so that nobody can pass for another one")
        if any(issuer.prefix.startswith((MACHINE, GROUP)) for issuer in self.issuers):
            raise ValueError(f"issuers: no prefix begins with {MACHINE!r} or {GROUP!r}")
        return self

    def role(self, identity: Identity, project: str) -> Role | None:
        """Return the highest role that somebody has in a project; None if they have none."""
        entries = (self.projects.get(name) for name in (project, EVERYONE))
        roles = [role for entry in entries if entry is not None and (role := entry.role(identity.subjects))]
        return max(roles, default=None)

    def has_any_role(self, identity: Identity) -> bool:
        """Return whether somebody has a role anywhere."""
        return any(entry.role(identity.subjects) is not None for entry in self.projects.values())

    def limits(self, project: str) -> Limits:
        """Return what a project may use: what its own entry leaves open is decided by that of all projects."""
        own, every = (self.projects.get(name, Project()) for name in (project, EVERYONE))
        values = {
            field: getattr(every, field) if getattr(own, field) is None else getattr(own, field)
            for field in Limits.model_fields
        }
        return Limits(**values)


class Machine(_Table):
    """A static token: its digest alone, never the token."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    groups: frozenset[str] = frozenset()
    expires: date | None = Field(default=None, description="last day on which it is accepted (UTC)")

    @property
    def expires_at(self) -> float:
        """Time in seconds since 1970 from which it is refused."""
        if self.expires is None:
            return float("inf")
        return datetime.combine(self.expires, time(), UTC).timestamp() + 86_400


class Machines(_Table):
    """The file of static tokens: one table for each machine."""

    machines: Mapping[str, Machine] = Field(default_factory=dict)

    @field_validator("machines")
    @classmethod
    def _are_names(cls, value: Mapping[str, Machine]) -> Mapping[str, Machine]:
        digests = [machine.sha256 for machine in value.values()]
        if len(set(digests)) < len(digests):
            raise ValueError("two machines have the same token")
        return value


def read_policy(path: Path) -> Policy:
    """Return what the access file says; raise PreconditionError naming the first thing that is wrong with it."""
    return _read(path, "PARFOCAL_ACCESS_FILE", Policy)


def read_machines(path: Path) -> Machines:
    """Return the static tokens; raise PreconditionError naming the first thing that is wrong with the file."""
    return _read(path, "PARFOCAL_TOKENS_FILE", Machines, within="machines")


def _read(path: Path, setting: str, model: type[_M], within: str = "") -> _M:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        return model.model_validate({within: content} if within else content)
    except OSError as error:
        raise PreconditionError(f"{path} ({setting}) cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"] if part != within) or "the file"
        # Not the value itself: it may be a token in the wrong place.
        raise PreconditionError(f"{path} ({setting}) cannot be used: {where}: {problem['msg']}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PreconditionError(f"{path} ({setting}) is not TOML: {error}.") from error
