"""Random messages to every RPC of running services, and bytes that are none: INTERNAL and UNKNOWN are defects."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from access_matrix import all_services
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from fuzz.inputs import Findings
from fuzz.messages import Generator
from fuzz.mutation import mutate

# So long a call may take; a stream that goes on is left.
_SECONDS = 20.0
_STREAM_SECONDS = 0.3
_AT_ONCE = 12
_DEFECTS = {getattr(grpc.StatusCode, name) for name in ("CANCELLED", "DATA_LOSS", "INTERNAL", "UNKNOWN")}
# What gRPC's client says itself: where the server has ended the call before all was sent, and where time was up.
_CLIENTS_OWN = ("Internal error from Core", "Locally cancelled by application!")
_METADATA = ("parfocal-service", "x-request-id", "authorization", "parfocal-acts-for")


@dataclass(frozen=True)
class Rpc:
    """One RPC and where it is served."""

    path: str
    address: str
    method: MethodDescriptor


def rpcs_at(addresses: Mapping[str, str]) -> list[Rpc]:
    """Return every RPC of the contract; `addresses` are by gRPC service."""
    return [
        Rpc(f"/{service.full_name}/{method.name}", addresses[service.full_name], method)
        for service in all_services()
        for method in service.methods
    ]


async def run_rpcs(
    seed: int,
    count: int,
    rpcs: Sequence[Rpc],
    known: Mapping[str, Sequence[Any]],
    until: float = float("inf"),
) -> Findings:
    """Send random messages until there were `count`, or it is `until`."""
    rng, findings = random.Random(seed), Findings()
    channels = {rpc.address: grpc.aio.insecure_channel(rpc.address) for rpc in rpcs}
    generator, left = Generator(rng, known), count

    async def send() -> None:
        nonlocal left
        while left > 0 and time.monotonic() < until:
            left -= 1
            rpc = rng.choice(rpcs)
            messages = [_message(rng, generator, rpc) for _ in range(_number(rng, rpc))]
            await _call(channels[rpc.address], rpc, messages, _metadata(rng), findings)

    await asyncio.gather(*(send() for _ in range(_AT_ONCE)))
    for channel in channels.values():
        await channel.close()
    return findings


def _number(rng: random.Random, rpc: Rpc) -> int:
    return rng.randrange(4) if rpc.method.client_streaming else 1


def _message(rng: random.Random, generator: Generator, rpc: Rpc) -> bytes:
    message = generator.fill(message_factory.GetMessageClass(rpc.method.input_type)())
    data = message.SerializePartialToString()
    # As many bytes that are no message of this type: cut, or changed.
    return mutate(rng, [data or b"\x0a"]) if rng.random() < 0.1 else data


def _metadata(rng: random.Random) -> list[tuple[str, str]]:
    if rng.random() < 0.9:
        return []
    text = "".join(rng.choices("abc %-._~/:;=\"'", k=rng.choice((0, 5, 300))))
    return [(rng.choice(_METADATA), text)]


async def _call(
    channel: grpc.aio.Channel, rpc: Rpc, messages: list[bytes], metadata: list[tuple[str, str]], findings: Findings
) -> None:
    """Make one call and note its outcome. On the wire one message is a stream of one."""
    seconds = _STREAM_SECONDS if rpc.method.server_streaming else _SECONDS
    send: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(rpc.path)
    call = send(iter(messages), timeout=seconds, metadata=metadata)
    try:
        async for _ in call:
            pass
        code, details = await call.code(), ""
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), error.details() or ""
    except asyncio.CancelledError:
        # So the client tells that a call was cancelled, by whichever side.
        code, details = await call.code(), await call.details() or ""
    ended = code == grpc.StatusCode.DEADLINE_EXCEEDED and not rpc.method.server_streaming
    if (code in _DEFECTS and details not in _CLIENTS_OWN) or ended:
        words = details.split("request ")[0][:60]
        findings.defect(
            f"{rpc.path.rsplit('/', 1)[-1]}: {code.name}: {words}", f"{details[:400]} {messages[:1]!r:.600}"
        )
    else:
        findings.counts[code.name] += 1
