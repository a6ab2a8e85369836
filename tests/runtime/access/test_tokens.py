"""Whose tokens are believed, and what the access file may say."""

from __future__ import annotations

import hmac
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from parfocal.runtime.access import keys as access_keys
from parfocal.runtime.access.gate import Gate
from parfocal.runtime.access.identity import Identity, Role
from parfocal.runtime.access.policy import Issuer, Machine, Machines, read_machines, read_policy
from parfocal.runtime.access.tokens import LEEWAY_SECONDS, Verifier, new_static_token, static_digest
from parfocal.runtime.errors import ParfocalError, PreconditionError, UnauthenticatedError, UnavailableError
from parfocal.runtime.settings import Settings


@dataclass
class Keys:
    """An issuer that tells its keys over HTTP and counts how often it is asked."""

    private: Any
    algorithm: str = "ES256"
    key_id: str = "first"
    asked: int = 0
    silent: bool = False
    issuer: str = ""
    wanted: list[str] = field(default_factory=list)

    def token(self, headers: dict[str, str] | None = None, **claims: Any) -> str:
        now = time.time()
        content = {"iss": self.issuer, "aud": "parfocal", "sub": "ann", "exp": now + 300, **claims}
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode(content, self.private, self.algorithm, {"kid": self.key_id, **(headers or {})})

    def document(self) -> dict[str, Any]:
        algorithm = jwt.algorithms.ECAlgorithm if self.algorithm == "ES256" else jwt.algorithms.RSAAlgorithm
        public = json.loads(algorithm.to_jwk(self.private.public_key()))
        # What cannot verify a signature is passed over.
        secret = {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}
        return {"keys": [{**public, "kid": self.key_id, "alg": self.algorithm}, secret]}


@pytest.fixture
def keys() -> Iterator[Keys]:
    known = Keys(ec.generate_private_key(ec.SECP256R1()))

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.wanted.append(self.headers.get("Authorization", ""))
            if self.path == "/.well-known/openid-configuration":
                content = {"issuer": known.issuer, "jwks_uri": f"{known.issuer}/keys"}
            else:
                known.asked += 1
                content = known.document()
            data = json.dumps(content).encode()
            self.send_response(503 if known.silent else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    known.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield known
    server.shutdown()
    server.server_close()


def verifier(keys: Keys, **fields: Any) -> Verifier:
    return Verifier((Issuer(issuer=keys.issuer, audience=("parfocal",), **fields),), Machines())


def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token)
    assert token not in caught.value.message
    return caught.value.message


def test_a_token_says_who_somebody_is_and_until_when(keys: Keys) -> None:
    expires = int(time.time()) + 100
    token = keys.token(exp=expires, preferred_username="Ann", realm={"groups": ["imaging", 7]})
    found = verifier(keys, name_claim="preferred_username", groups_claim="realm.groups").verify(token)
    assert found == Identity("Ann", frozenset({"imaging"}), expires + LEEWAY_SECONDS)


def test_rsa_is_known_too(keys: Keys) -> None:
    keys.private, keys.algorithm = rsa.generate_private_key(65537, 2048), "RS256"
    assert verifier(keys).verify(keys.token()).name == "ann"


def test_clocks_may_differ_by_the_leeway_and_no_more(keys: Keys) -> None:
    known = verifier(keys)
    assert known.verify(keys.token(exp=time.time() - LEEWAY_SECONDS + 20)).name == "ann"
    assert "expired" in refusal(known, keys.token(exp=time.time() - LEEWAY_SECONDS - 5))


def signed_by_secret(claims: dict[str, Any], secret: bytes) -> str:
    """Return a token that PyJWT itself would not make: its secret is a public key."""
    head, body = (
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256", "kid": "first"}, claims)
    )
    signature = urlsafe_b64encode(hmac.digest(secret, head + b"." + body, "sha256")).rstrip(b"=")
    return b".".join((head, body, signature)).decode()


def test_forged_and_foreign_tokens_are_refused(keys: Keys) -> None:
    known = verifier(keys)
    known.verify(keys.token())
    other = ec.generate_private_key(ec.SECP256R1())
    now = time.time()
    claims = {"iss": keys.issuer, "aud": "parfocal", "sub": "eve", "exp": now + 300}
    public = keys.private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged = {
        "another key of the same name": jwt.encode(claims, other, "ES256", {"kid": "first"}),
        "no signature": jwt.encode(claims, None, "none", {"kid": "first"}),
        "the public key as a secret": signed_by_secret(claims, public),
        "a secret from the list of keys": jwt.encode(claims, b"secret" * 8, "HS256", {"kid": "secret"}),
        "another audience": keys.token(aud="something-else"),
        "another issuer": keys.token(iss="https://elsewhere.example.org"),
        "no audience": keys.token(aud=None),
        "no end": keys.token(exp=None),
        "not yet": keys.token(nbf=now + 600),
        "no key named": jwt.encode(claims, keys.private, "ES256"),
        "too long": "x" * 20_000,
        "no token": "hello",
    }
    for what, token in forged.items():
        assert refusal(known, token), what


def test_nobody_calls_themselves_a_machine_or_group(keys: Keys) -> None:
    known = verifier(keys, name_claim="nickname")
    for name in ("machine:runner", "group:operators", "*", "", None, "a\nb", "x" * 300):
        assert refusal(known, keys.token(nickname=name))
    assert refusal(verifier(keys, name_claim="email"), keys.token(email="ann@example.org", email_verified=False))


def test_two_issuers_cannot_pass_for_each_other(keys: Keys) -> None:
    found = verifier(keys, prefix="partner/").verify(keys.token(groups=["operators"]))
    assert found == Identity("partner/ann", frozenset({"partner/operators"}), found.expires_at)
    with pytest.raises(ValueError, match="prefix"):
        read_policy_of(
            f'[[issuers]]\nissuer="{keys.issuer}"\naudience="a"\n[[issuers]]\nissuer="https://b"\naudience="a"'
        )


def test_nobody_chooses_a_name_of_another_issuer(keys: Keys) -> None:
    def known(prefix: str, other: str) -> Verifier:
        cluster = Issuer(issuer="https://cluster.example.org", audience=("parfocal",), prefix=other)
        own = Issuer(issuer=keys.issuer, audience=("parfocal",), prefix=prefix)
        return Verifier((own, cluster), Machines())

    assert "cluster/runner" in refusal(known("", "cluster/"), keys.token(sub="cluster/runner"))
    groups = known("", "cluster/").verify(keys.token(groups=["imaging", "cluster/operators"])).groups
    assert groups == frozenset({"imaging"})
    assert "lab/cluster/runner" in refusal(known("lab/", "lab/cluster/"), keys.token(sub="cluster/runner"))
    assert known("lab/cluster/", "lab/").verify(keys.token(sub="runner")).name == "lab/cluster/runner"


def test_an_unknown_key_is_asked_for_once_a_minute(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    known = verifier(keys)
    known.verify(keys.token())
    keys.private, keys.key_id = ec.generate_private_key(ec.SECP256R1()), "second"
    for number in range(20):
        assert "key" in refusal(known, keys.token({"kid": f"unknown-{number}"}))
    assert keys.asked == 1
    monkeypatch.setattr(access_keys, "UNKNOWN_SECONDS", 0.0)
    assert known.verify(keys.token()).name == "ann"
    assert keys.asked == 2


def test_an_issuer_that_is_away_keeps_out_only_those_whose_key_is_not_known(keys: Keys) -> None:
    keys.silent = True
    known = verifier(keys)
    with pytest.raises(UnavailableError):
        known.verify(keys.token())
    keys.silent = False
    later = verifier(keys)
    assert later.verify(keys.token()).name == "ann"
    keys.silent = True
    assert later.verify(keys.token()).name == "ann"


def test_service_accounts_of_kubernetes_go_the_same_way(keys: Keys, tmp_path: Path) -> None:
    own = tmp_path / "token"
    own.write_text("of-the-service\n")
    name = "system:serviceaccount:parfocal:parfocal-runner"
    known = verifier(keys, keys_url=f"{keys.issuer}/openid/v1/jwks", token_file=own)
    pod = {"kubernetes.io": {"namespace": "parfocal"}}
    assert known.verify(keys.token(sub=name, aud=["parfocal"], **pod)).name == name
    assert set(keys.wanted) == {"Bearer of-the-service"}


def test_static_tokens_are_known_by_their_digest(tmp_path: Path) -> None:
    token, old = new_static_token(), new_static_token()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    path = tmp_path / "tokens.toml"
    path.write_text(
        f'[runner]\nsha256 = "{static_digest(token)}"\ngroups = ["robots"]\n'
        f'[old]\nsha256 = "{static_digest(old)}"\nexpires = {yesterday}\n'
    )
    known = Verifier((), read_machines(path))
    assert known.verify(token) == Identity("machine:runner", frozenset({"robots"}))
    assert "old" in refusal(known, old)
    assert refusal(known, new_static_token())


def read_policy_of(text: str) -> Any:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        try:
            return read_policy(Path(file.name))
        except PreconditionError as error:
            raise ValueError(error.message) from error


def test_roles_come_from_the_project_and_from_all_projects() -> None:
    policy = read_policy_of(
        '[projects."*"]\noperators = ["group:facility"]\nactive_jobs = 9\n'
        '[projects.beads]\nviewers = ["*"]\nusers = ["ann"]\nactive_jobs_per_user = 2\n'
    )
    ann, bob, eve = Identity("ann"), Identity("bob", frozenset({"facility"})), Identity("eve")
    assert [policy.role(who, "beads") for who in (ann, bob, eve)] == [Role.USER, Role.OPERATOR, Role.VIEWER]
    assert [policy.role(who, "other") for who in (ann, bob, eve)] == [None, Role.OPERATOR, None]
    limits = policy.limits("beads")
    assert (limits.active_jobs, limits.active_jobs_per_user, limits.device_hours_per_month) == (9, 2, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("projects = 1", "projects"),
        ("[projects.a]\nuser = ['x']", "projects.a.user"),
        ("[[issuers]]\nissuer = 'http://sso.example.org'\naudience = 'a'", "https"),
        ("[[issuers]]\nissuer = 'https://a'\naudience = 'a'\nalgorithms = ['HS256']", "algorithms"),
        ("nonsense", "TOML"),
    ],
)
def test_a_wrong_access_file_is_named_with_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(text)
    with pytest.raises(PreconditionError, match=said) as caught:
        Gate(Settings(access_file=path))
    assert str(path) in caught.value.message


def test_a_changed_file_counts_and_a_spoiled_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.runtime.access.gate._RELOAD_SECONDS", 0.0)
    path = tmp_path / "access.toml"
    path.write_text("[projects.beads]\nusers = ['ann']")
    gate = Gate(Settings(access_file=path))
    assert gate.policy.role(Identity("ann"), "beads") is Role.USER
    path.write_text("[projects.beads]\noperators = ['ann']")
    assert gate.policy.role(Identity("ann"), "beads") is Role.OPERATOR
    path.write_text("[projects.beads]\nkings = ['ann']")
    assert gate.policy.role(Identity("ann"), "beads") is Role.OPERATOR


def test_without_an_access_file_everybody_is_let_in() -> None:
    assert Gate(Settings()).identify({}).name == "unverified"
    with pytest.raises(ParfocalError, match="PARFOCAL_ACCESS_FILE"):
        Gate(Settings(tokens_file=Path("tokens.toml")))


def test_two_machines_cannot_share_a_token() -> None:
    machine = Machine(sha256="0" * 64)
    with pytest.raises(ValueError, match="same token"):
        Machines(machines={"a": machine, "b": machine})
