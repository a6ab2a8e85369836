"""TLS of a server that runs: new certificates, certificates of clients, and where a server refuses to listen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from parfocal.runtime.access.transport import (
    UNPROTECTED,
    channel_credentials,
    is_loopback,
    require_protection,
    server_credentials,
)
from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.settings import Settings


class Authority:
    """A certificate authority that writes certificates for 127.0.0.1 into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Write a certificate and its key; return where they are."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = self._builder(subject, key.public_key()).add_extension(addresses, critical=False)
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            self._name, subject, key, x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(hours=1)
        )


class Server:
    """An asyncio server with nothing but health, as the services have it."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(settings), self._loop).result(10)

    async def _start(self, settings: Settings) -> int:
        self._server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), self._server)
        credentials = server_credentials(settings)
        assert credentials is not None
        port = self._server.add_secure_port("127.0.0.1:0", credentials)
        await self._server.start()
        return port

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(None), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def answers(port: int, settings: Settings) -> bool:
    credentials = channel_credentials(settings)
    assert credentials is not None
    # Channels of one process share connections unless they are told not to.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError:
            return False
        return True


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.stop()


def test_a_new_certificate_counts_without_a_restart(tmp_path: Path, servers: list[Server]) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    cert, key = old.issue("server")
    servers.append(Server(Settings(tls_cert=cert, tls_key=key)))
    port = servers[0].port
    assert answers(port, Settings(tls_ca=str(old.path)))
    assert not answers(port, Settings(tls_ca=str(new.path)))
    cert.write_text("spoiled")
    assert answers(port, Settings(tls_ca=str(old.path))), "the one before goes on counting"
    new.issue("server")
    assert answers(port, Settings(tls_ca=str(new.path)))
    assert not answers(port, Settings(tls_ca=str(old.path)))


def test_only_clients_with_a_certificate_are_answered_where_that_is_asked_for(
    tmp_path: Path, servers: list[Server]
) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    cert, key = authority.issue("server")
    servers.append(Server(Settings(tls_cert=cert, tls_key=key, tls_client_ca=authority.path)))
    port = servers[0].port
    own, foreign = authority.issue("client"), other.issue("stranger")
    ca = str(authority.path)
    assert answers(port, Settings(tls_ca=ca, tls_cert=own[0], tls_key=own[1]))
    assert not answers(port, Settings(tls_ca=ca, tls_cert=foreign[0], tls_key=foreign[1]))
    assert not answers(port, Settings(tls_ca=ca))


def test_beyond_loopback_a_server_needs_tls_and_identities(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path, "authority").issue("server")
    everywhere = "0.0.0.0:50051"
    require_protection(Settings(listen="127.0.0.1:1"))
    require_protection(Settings(listen=everywhere, tls_cert=cert, tls_key=key, access_file=tmp_path / "access.toml"))
    require_protection(Settings(listen=everywhere, unprotected=UNPROTECTED))
    for settings in (
        Settings(listen=everywhere),
        Settings(listen=everywhere, tls_cert=cert, tls_key=key),
        Settings(listen=everywhere, access_file=tmp_path / "access.toml"),
        Settings(listen="127.0.0.1:1", unprotected="yes"),
    ):
        with pytest.raises(PreconditionError):
            require_protection(settings)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        (":1", False),
    ],
)
def test_what_only_this_machine_reaches(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    (cert, key), (_, other) = authority.issue("one"), authority.issue("two")
    for settings in (
        Settings(tls_cert=cert),
        Settings(tls_key=key),
        Settings(tls_cert=cert, tls_key=other),
        Settings(tls_cert=cert, tls_key=tmp_path / "absent"),
        Settings(tls_client_ca=authority.path),
    ):
        with pytest.raises(PreconditionError, match=r"PARFOCAL_TLS|certificate"):
            server_credentials(settings)
    with pytest.raises(PreconditionError, match="PARFOCAL_TLS_CA"):
        channel_credentials(Settings(tls_ca=str(tmp_path / "absent")))
