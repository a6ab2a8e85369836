"""TLS of servers and clients, and where a server may do without."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Final

import grpc

from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
#: Nobody types this by accident.
UNPROTECTED: Final = "anyone-on-this-network-may-read-and-change-everything"
SYSTEM: Final = "system"


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches host:port."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_protection(settings: Settings) -> None:
    """Refuse to listen where others could call without TLS, or without saying who they are.

    Raises
    ------
    PreconditionError
        `PARFOCAL_LISTEN` is beyond loopback, something is missing, and nobody has said that this is meant.
    """
    if settings.unprotected not in {"", UNPROTECTED}:
        raise PreconditionError(f"PARFOCAL_UNPROTECTED must be empty or {UNPROTECTED}.")
    missing = []
    if settings.tls_cert is None:
        missing.append("TLS (PARFOCAL_TLS_CERT and PARFOCAL_TLS_KEY)")
    if settings.access_file is None:
        missing.append("identities (PARFOCAL_ACCESS_FILE)")
    if not missing or is_loopback(settings.listen):
        return
    if settings.unprotected == UNPROTECTED:
        _log.warning("listening on %s without %s", settings.listen, " and ".join(missing))
        return
    raise PreconditionError(
        f"PARFOCAL_LISTEN is {settings.listen}, where other machines can call, but there is no "
        f"{' and no '.join(missing)}. Set what is missing, or listen on 127.0.0.1; docs/operating.md says how."
    )


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return what a server shows to those who connect; None where it speaks no TLS.

    Certificate, key and authorities of clients are read again when they have changed, and then count for new
    connections. Files that have become unusable are logged, and those before go on counting.

    Raises
    ------
    PreconditionError
        The files cannot be used, or one of them is not named.
    """
    if settings.tls_cert is None and settings.tls_key is None:
        if settings.tls_client_ca is not None:
            raise PreconditionError(
                "PARFOCAL_TLS_CLIENT_CA is set, but PARFOCAL_TLS_CERT and PARFOCAL_TLS_KEY are not."
            )
        return None
    certificates = _Certificates(settings)
    first = certificates.read()
    return grpc.dynamic_ssl_server_credentials(
        first,
        certificates.changed,  # type: ignore[arg-type]  # None, for no change, is missing in the stubs
        require_client_authentication=settings.tls_client_ca is not None,
    )


class _Certificates:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: tuple[bytes, ...] = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Return the certificates as the files have them now."""
        key, chain = _key_pair(self._settings)
        client_ca = self._settings.tls_client_ca
        authorities = _file(client_ca, "PARFOCAL_TLS_CLIENT_CA") if client_ca is not None else None
        self._known = (key, chain, authorities or b"")
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates if they have changed; gRPC asks before each handshake, from threads of its own."""
        known = self._known
        try:
            configuration = self.read()
        except PreconditionError as error:
            _log.error("%s The certificate from before goes on counting.", error)
            return None
        return configuration if self._known != known else None


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """Return what a client needs to speak TLS; None where it speaks none.

    Raises
    ------
    PreconditionError
        The files cannot be used.
    """
    if not settings.tls_ca:
        return None
    authorities = None if settings.tls_ca == SYSTEM else _file(Path(settings.tls_ca), "PARFOCAL_TLS_CA")
    key, chain = _key_pair(settings) if settings.tls_cert is not None else (None, None)
    return grpc.ssl_channel_credentials(authorities, key, chain)


def _key_pair(settings: Settings) -> tuple[bytes, bytes]:
    """Return key and certificate, which fit each other: gRPC would only say that nothing works."""
    from ssl import PROTOCOL_TLS_SERVER, SSLContext, SSLError

    if settings.tls_cert is None or settings.tls_key is None:
        raise PreconditionError("PARFOCAL_TLS_CERT and PARFOCAL_TLS_KEY belong together: set both or none.")
    key, chain = _file(settings.tls_key, "PARFOCAL_TLS_KEY"), _file(settings.tls_cert, "PARFOCAL_TLS_CERT")
    try:
        SSLContext(PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (SSLError, OSError) as error:
        raise PreconditionError(
            f"{settings.tls_cert} and {settings.tls_key} are no certificate and its key: {error}."
        ) from None
    return key, chain


def _file(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PreconditionError(f"{path} ({setting}) cannot be read: {error.strerror}.") from error
