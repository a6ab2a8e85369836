"""Notices: who is told by e-mail or webhook how a workflow ended, as `parfocal notify` has set it up.

Prefect's own notifications know no plain e-mail, and their blocks keep passwords where everybody reads them who has
Prefect's password. So the flow runner sends notices itself, by a file that its owner alone can read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError, ParfocalError, UnavailableError
from parfocal.runtime.numbers import whole_number
from parfocal.runtime.store.names import check_name
from parfocal.stack.config import resolve_folder, write_atomically

_log = logging.getLogger("prefect.parfocal.flows")
FILE_SETTING: Final = "PARFOCAL_NOTIFY_FILE"
"""Environment variable with the path of the file; else it is `notify.json` in Parfocal's folder."""
_SECONDS: Final = 20.0
_PAUSES: Final = (1.0, 5.0)
_SAME_SECONDS: Final = 86_400.0
_LONGEST: Final = 2_000

When = Literal["failed", "always"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mail(_Table):
    """An e-mail by SMTP."""

    kind: Literal["email"] = "email"
    to: tuple[str, ...] = Field(min_length=1)
    sender: str
    server: str = Field(description="host:port")
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = Field(default="", repr=False)
    on: When = "failed"

    @field_validator("to", "sender")
    @classmethod
    def _are_addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for each in (value,) if isinstance(value, str) else value:
            if each.count("@") != 1 or not each.isprintable() or any(letter in each for letter in " ,;<>"):
                raise ValueError(f"{each!r} is no e-mail address")
        return value

    @property
    def where(self) -> str:
        """Whom it reaches, without secrets."""
        return f"e-mail to {', '.join(self.to)} by {self.server}"


class Hook(_Table):
    """A call over HTTP: a POST of JSON whose field `text` chat programs show."""

    kind: Literal["webhook"] = "webhook"
    url: str = Field(repr=False)
    secret: str = Field(default="", repr=False, description="signs the body: X-Parfocal-Signature: sha256=HEX")
    on: When = "failed"

    @field_validator("url")
    @classmethod
    def _is_protected(cls, value: str) -> str:
        parts = urlsplit(value)
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))):
            raise ValueError("the address must begin with https:// (http:// only on this computer)")
        return value

    @property
    def where(self) -> str:
        """Whom it reaches, without secrets: the path of such an address is one."""
        return f"webhook of {urlsplit(self.url).hostname}"


class Notices(_Table):
    """Everybody who is told, by the names that they were set up with."""

    told: dict[str, Mail | Hook] = Field(default_factory=dict)


class Notice(_Table):
    """How a workflow ended.

    Attributes
    ----------
    title
        What ended, e.g. "predict new images with nuclei:2".
    text
        What it said.
    failed
        Whether somebody should look at it.
    page
        Address of the run on Prefect's page; empty where it is not known.
    """

    title: str
    text: str
    failed: bool
    page: str = ""

    @property
    def subject(self) -> str:
        """One line of it."""
        return " ".join(f"Parfocal: {self.title} {'failed' if self.failed else 'ended'}".split())[:200]


def notices_path(folder: Path | None = None) -> Path:
    """Return where it stands who is told."""
    named = os.environ.get(FILE_SETTING)
    return Path(named).expanduser() if named else resolve_folder(folder) / "notify.json"


def read_notices(path: Path) -> Notices:
    """Return who is told; raise DamagedError where that cannot be read."""
    try:
        return Notices.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return Notices()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        # The message of pydantic would show the passwords.
        raise DamagedError(f"{path} cannot be used. Repair it, or delete it and set up the notices again.") from error


def add(path: Path, name: str, told: Mail | Hook) -> None:
    """Tell somebody from now on; what had this name before is replaced."""
    check_name("notice", name)
    known = read_notices(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, Notices(told={**known.told, name: told}))


def remove(path: Path, name: str) -> None:
    """Tell somebody no longer; raise NotFoundError naming those that are told."""
    known = read_notices(path)
    if name not in known.told:
        raise NotFoundError(f"There is no notice named {name!r} (there: {', '.join(known.told) or 'none yet'}).")
    _write(path, Notices(told={each: told for each, told in known.told.items() if each != name}))


def send(told: Mail | Hook, notice: Notice) -> None:
    """Send a notice once.

    Raises
    ------
    UnavailableError
        The server does not answer.
    InvalidInputError
        It refuses the notice, for example the password or an address.
    """
    if isinstance(told, Mail):
        _mail(told, notice)
    else:
        _call(told, notice)


def tell(path: Path, notice: Notice, memory: Path, clock: Callable[[], float] = time.time) -> Sequence[str]:
    """Tell everybody who wants to know; return the names of those that were reached. Nothing is raised.

    What was said within the last day in the same words is not said again: a schedule that fails every few minutes fills
    no mailbox.

    Parameters
    ----------
    memory
        File that keeps when what was said.
    """
    reached: list[str] = []
    try:
        told = read_notices(path).told
    except DamagedError as error:
        _log.warning("nobody was told how the run ended: %s", error.message)
        return reached
    said = _said(memory, clock())
    for name, each in told.items():
        key = hashlib.sha256(f"{name}\n{notice.title}\n{notice.text}".encode()).hexdigest()[:32]
        if (each.on == "failed" and not notice.failed) or (notice.failed and key in said):
            continue
        if _patiently(each, notice):
            reached.append(name)
            said[key] = clock()
    if reached:
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(memory, json.dumps(said))
        except OSError as error:
            _log.warning("it could not be kept who was told: %s", error)
    return reached


def _patiently(told: Mail | Hook, notice: Notice) -> bool:
    for pause in (*_PAUSES, None):
        try:
            send(told, notice)
        except UnavailableError as error:
            if pause is None:
                _log.warning("%s could not be sent: %s", told.where, error.message)
                return False
            time.sleep(pause)
        except InvalidInputError as error:
            _log.warning("%s could not be sent: %s", told.where, error.message)
            return False
        else:
            return True
    return False


def _mail(told: Mail, notice: Notice) -> None:
    host, _, port = told.server.rpartition(":")
    if not host or whole_number(port, 5) is None:
        raise InvalidInputError(
            f"{told.server!r} is no mail server: write host:port, for example smtp.example.org:587."
        )
    if told.user and told.security == "none" and not _is_here(host):
        raise InvalidInputError(
            f"The password would be sent to {host} where everybody can read it: choose --security starttls or tls."
        )
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = notice.subject, told.sender, ", ".join(told.to)
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=told.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n\n".join(filter(None, (notice.title, notice.text[:_LONGEST], notice.page))))
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(host, int(port), timeout=_SECONDS, context=context)
            if told.security == "tls"
            else smtplib.SMTP(host, int(port), timeout=_SECONDS) as server
        ):
            if told.security == "starttls":
                server.starttls(context=context)
            if told.user:
                server.login(told.user, told.password)
            refused = server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        raise _refused(
            told, min(codes, default=550), f"it does not take mail for {', '.join(error.recipients)}"
        ) from error
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error
        words = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise _refused(told, error.smtp_code, f"{error.smtp_code} {words}") from error
    except smtplib.SMTPNotSupportedError as error:
        raise _refused(told, 550, f"{error} Choose another --security, or leave --user out.") from error
    except OSError as error:
        raise UnavailableError(f"The mail server {told.server} does not answer: {error}") from error
    if refused:
        raise InvalidInputError(f"The mail server {told.server} refused {', '.join(refused)}.")


def _refused(told: Mail, code: int, why: str) -> ParfocalError:
    """Return the error for an answer of a mail server: 4xx means that it may be asked again."""
    if 400 <= code < 500:
        return UnavailableError(f"The mail server {told.server} cannot take the notice at the moment: {why}")
    return InvalidInputError(f"The mail server {told.server} refused the notice: {why}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the body would go to somebody else."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


_HTTP = urllib.request.build_opener(_NoRedirects())


def _call(told: Hook, notice: Notice) -> None:
    text = "\n".join(filter(None, (notice.subject, notice.text[:_LONGEST], notice.page)))
    body = json.dumps({**notice.model_dump(), "message": notice.text, "text": text}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "parfocal"}
    if told.secret:
        digest = hmac.new(told.secret.encode(), body, "sha256").hexdigest()
        headers["X-Parfocal-Signature"] = f"sha256={digest}"
    host = urlsplit(told.url).hostname
    try:
        with _HTTP.open(urllib.request.Request(told.url, body, headers, method="POST"), timeout=_SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code == 429:
            raise UnavailableError(f"{host} cannot take the notice at the moment (status {error.code}).") from None
        raise InvalidInputError(f"{host} refused the notice (status {error.code}). Check the address.") from None
    except (OSError, HTTPException, ValueError):
        # Its message may have the address, which is a secret.
        raise UnavailableError(f"{host} does not answer.") from None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _said(memory: Path, now: float) -> dict[str, float]:
    try:
        known = json.loads(memory.read_text("utf-8"))
        return {str(key): float(at) for key, at in known.items() if now - float(at) < _SAME_SECONDS}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, notices: Notices) -> None:
    write_atomically(path, notices.model_dump_json(indent=2) + "\n")
