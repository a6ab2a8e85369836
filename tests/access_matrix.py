"""Every RPC of a service, called by everybody: who may and who may not, as the table of actions says.

The calls are made from the descriptors of the contract, so an RPC that is added is called without further ado.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from parfocal import v1
from parfocal.runtime.access.actions import ACTIONS, Action
from parfocal.runtime.access.identity import Role
from parfocal.runtime.access.tokens import new_static_token, static_digest

OWN, FOREIGN = "default", "other"
#: By name: their role in the project OWN; None: a token, but no role anywhere.
PEOPLE: dict[str, Role | None] = {
    "viewer": Role.VIEWER,
    "user": Role.USER,
    "operator": Role.OPERATOR,
    "stranger": None,
}
# Somebody has a role there, so that it exists.
_ACCESS = f"""
[projects.{OWN}]
viewers = ["machine:viewer"]
users = ["machine:user"]
operators = ["group:operators"]

[projects.{FOREIGN}]
operators = ["machine:somebody-else"]
"""


@dataclass(frozen=True)
class People:
    """The access files of the matrix, and everybody's token by name."""

    settings: dict[str, str]
    tokens: dict[str, str]

    def metadata(self, name: str) -> list[tuple[str, str]]:
        """The metadata of a call by somebody; by nobody if the name is empty."""
        return [("authorization", f"Bearer {self.tokens[name]}")] if name else []


def make_people(folder: Path, further: str = "") -> People:
    """Write the access files into a folder; `further` is added to what they say of projects."""
    tokens = {name: new_static_token() for name in (*PEOPLE, "somebody-else")}
    access, machines = folder / "access.toml", folder / "tokens.toml"
    access.write_text(_ACCESS + further)
    groups = {"operator": 'groups = ["operators"]'}
    machines.write_text(
        "\n".join(
            f'[{name}]\nsha256 = "{static_digest(token)}"\n{groups.get(name, "")}' for name, token in tokens.items()
        )
    )
    return People({"access_file": str(access), "tokens_file": str(machines)}, tokens)


def all_services() -> list[ServiceDescriptor]:
    """Return every service of the contract."""
    # Modules are known there by several names.
    modules = [module for name, module in vars(v1).items() if name.endswith("_pb2")]
    found = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return list({service.full_name: service for service in found}.values())


@dataclass(frozen=True)
class Case:
    """One call by one person, about one project.

    Attributes
    ----------
    caller
        Name of the caller; empty: without a token.
    made_by
        Who has made the job or other thing that the call is about.
    """

    method: MethodDescriptor
    caller: str
    project: str
    made_by: str

    @property
    def rpc(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def expected(self) -> str:
        """What the gate decides: "pass", or the name of the code it refuses with."""
        action = ACTIONS[self.rpc]
        if not self.caller:
            return "UNAUTHENTICATED"
        role = PEOPLE[self.caller]
        if action.role is None:
            return "pass" if role is not None else "PERMISSION_DENIED"
        if role is None or self.project == FOREIGN:
            return "NOT_FOUND"
        if role < action.role:
            return "PERMISSION_DENIED"
        others = action is Action.CHANGE and role < Role.OPERATOR and self.made_by != f"machine:{self.caller}"
        return "PERMISSION_DENIED" if others else "pass"

    def __str__(self) -> str:
        return f"{self.method.name} by {self.caller or 'nobody'} in {self.project} on what {self.made_by} made"


def cases(services: Sequence[ServiceDescriptor]) -> Iterator[Case]:
    """Yield all calls of all RPCs of some services."""
    for service in services:
        for method in service.methods:
            for caller in ("", *PEOPLE):
                for project in (OWN, FOREIGN):
                    for made_by in ("machine:user", "machine:somebody-else"):
                        yield Case(method, caller, project, made_by)


def outcome(channel: grpc.Channel, case: Case, request: Any, metadata: Sequence[tuple[str, str]]) -> str:
    """Make a call and return what the gate decided, as `Case.expected` says it.

    Refusals for other reasons, such as that there is no such job, count as passed.
    """
    received = message_factory.GetMessageClass(case.method.output_type)
    ends = (case.method.client_streaming, case.method.server_streaming)
    kind = "_".join("stream" if streams else "unary" for streams in ends)
    call = getattr(channel, kind)(
        case.rpc,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=received.FromString,
    )
    try:
        answer = call(iter([request]) if case.method.client_streaming else request, timeout=20, metadata=metadata)
        if case.method.server_streaming:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as error:
        code, text = error.code(), error.details() or ""
        assert code is not grpc.StatusCode.INTERNAL, text
        if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
            return str(code.name)
        if code is grpc.StatusCode.NOT_FOUND and "have a role" in text:
            return "NOT_FOUND"
    return "pass"
