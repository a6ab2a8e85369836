"""Whether a client keeps its token to itself where it could be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from parfocal import v1
from parfocal.client.channels import SettingsTokens
from parfocal.client.services import Service
from parfocal.runtime.errors import PreconditionError, UnavailableError
from parfocal.runtime.settings import Settings


def ask(address: str, settings: Settings) -> None:
    service = Service(address, settings)
    try:
        service.call(service.methods.ListMethods, v1.ListMethodsRequest(), 1.0)
    finally:
        service.close()


def test_a_token_goes_beyond_loopback_only_with_tls() -> None:
    token = SecretStr("parfocal_secret")
    # An address of the documentation, where nobody answers.
    with pytest.raises(PreconditionError, match="PARFOCAL_TLS_CA") as caught:
        ask("192.0.2.1:1", Settings(token=token))
    assert "secret" not in caught.value.message
    with pytest.raises(UnavailableError):
        ask("192.0.2.1:1", Settings(token=token, tls_ca="system"))
    with pytest.raises(UnavailableError):
        ask("127.0.0.1:1", Settings(token=token))


def test_a_token_in_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    tokens = SettingsTokens(Settings(token_file=path))
    assert tokens.token() == "first"
    path.write_text("second\n")
    assert tokens.token() == "second"
    path.unlink()
    with pytest.raises(PreconditionError, match="PARFOCAL_TOKEN_FILE"):
        tokens.token()
