"""Settings of the portal alone, read from environment variables that begin with PARFOCAL_PORTAL_."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from parfocal.runtime.errors import PreconditionError


class PortalSettings(BaseSettings):
    """How browsers reach the portal, and how people sign in there."""

    model_config = SettingsConfigDict(env_prefix="PARFOCAL_PORTAL_", frozen=True, extra="ignore")

    url: str = Field(
        default="",
        description="address by which browsers reach the portal, such as https://parfocal.example.org, where something "
        "in front of it speaks TLS; empty: the one it listens on",
    )
    client_id: str = Field(
        default="",
        description="what the portal calls itself at the identity provider; empty: the client_id of the access file",
    )
    client_secret_file: Path | None = Field(
        default=None, description="file with the secret of that client; empty: a public client, protected by PKCE alone"
    )
    session_hours: float = Field(
        default=12.0, gt=0, description="hours after which people sign in again, whatever they did meanwhile"
    )

    @field_validator("client_secret_file", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("url")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and not (parts.scheme in {"http", "https"} and parts.netloc and parts.path in {"", "/"}):
            raise ValueError(f"must be an address without a path, such as https://parfocal.example.org, not {value!r}")
        return value.rstrip("/")

    @property
    def host(self) -> str:
        """What browsers send as the header Host; empty where no address is set."""
        return urlsplit(self.url).netloc

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the portal over TLS alone."""
        return urlsplit(self.url).scheme == "https"

    @property
    def client_secret(self) -> str:
        """The secret of the client; empty if it has none; raise PreconditionError if the file cannot be read."""
        if self.client_secret_file is None:
            return ""
        try:
            return self.client_secret_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PreconditionError(
                f"{self.client_secret_file} (PARFOCAL_PORTAL_CLIENT_SECRET_FILE) cannot be read: {error}."
            ) from error
