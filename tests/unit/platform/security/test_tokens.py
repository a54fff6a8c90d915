"""Tokens: who is let in, and why others are not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from errata.errors import StartupError, UnauthenticatedError, UnavailableError
from errata.launch.certs import DevelopmentCa, make_ca, make_token
from errata.platform.addresses import free_port
from errata.platform.security.bindings import read_bindings
from errata.platform.security.rules import Role
from errata.platform.security.tokens import Tokens
from errata.platform.settings import SecuritySettings


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    return make_ca(tmp_path_factory.mktemp("ca"))


def _tokens(ca: DevelopmentCa, **settings: Any) -> Tokens:
    chosen = SecuritySettings(jwks_file=ca.jwks, **settings)
    return Tokens(chosen, read_bindings(chosen.bindings_file))


def _signed(ca: DevelopmentCa, *, without: str = "", **claims: Any) -> str:
    now = datetime.now(UTC)
    usual = {"sub": "alice", "aud": "errata", "exp": now + timedelta(hours=1)}
    chosen = {name: value for name, value in {**usual, **claims}.items() if name != without}
    return jwt.encode(chosen, ca.key("tokens").read_bytes(), "ES256", {"kid": "development"})


def test_a_token_gives_its_subject_roles_and_lanes(ca: DevelopmentCa) -> None:
    found = _tokens(ca).identity(make_token(ca, "alice", ["editor"], ["lanes/facts"]))
    assert (found.subject, found.roles) == ("alice", {Role.EDITOR})
    assert found.may_use("lanes/facts")
    assert found.may_use("facts")
    assert not found.may_use("lanes/other")
    assert not found.expired


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": datetime(2020, 1, 1, tzinfo=UTC)}, "expired"),
        ({"nbf": datetime(2090, 1, 1, tzinfo=UTC)}, "not yet valid"),
        ({"aud": "billing"}, "[Aa]udience"),
        ({"without": "exp"}, "exp"),
        ({"without": "sub"}, "sub"),
        ({"without": "aud"}, "aud"),
        ({"iss": "https://elsewhere"}, "[Ii]ssuer"),
        ({"without": "iss"}, "iss"),
        ({"errata_roles": ["writer"]}, "'writer' is none of"),
        ({"errata_roles": ["king"]}, "'king' is none of"),
        ({"errata_roles": "editor"}, "must be a list"),
        ({"errata_lanes": "facts"}, "must be a list"),
        ({"errata_namespaces": "team-a"}, "must be a list of namespaces"),
        ({"errata_namespaces": [1]}, "must be a list of namespaces"),
    ],
)
def test_a_token_that_is_not_right_is_refused(
    ca: DevelopmentCa, claims: dict[str, Any], why: str
) -> None:
    tokens = _tokens(ca, issuer="https://issuer")
    assert tokens.identity(_signed(ca, iss="https://issuer")).subject == "alice", "control"
    with pytest.raises(UnauthenticatedError, match=why):
        tokens.identity(_signed(ca, **{"iss": "https://issuer", **claims}))


@pytest.mark.parametrize("claim", ["errata_namespaces", "errata_lanes"])
def test_a_limit_that_is_null_is_refused(ca: DevelopmentCa, claim: str) -> None:
    with pytest.raises(UnauthenticatedError, match=f"{claim} is null; leave it out"):
        _tokens(ca).identity(_signed(ca, **{claim: None}))


def test_a_token_of_another_key_or_algorithm_is_refused(ca: DevelopmentCa, tmp_path: Path) -> None:
    tokens = _tokens(ca)
    other = make_ca(tmp_path)
    with pytest.raises(UnauthenticatedError, match=r"[Ss]ignature"):
        tokens.identity(make_token(other, "alice", ["operator"]))
    claims = {"sub": "alice", "aud": "errata", "exp": datetime.now(UTC) + timedelta(hours=1)}
    with pytest.raises(UnauthenticatedError, match="alg"):
        tokens.identity(jwt.encode(claims, None, "none"))
    symmetric = jwt.encode(claims, "x" * 64, "HS256", {"kid": "development"})
    with pytest.raises(UnauthenticatedError, match="alg"):
        tokens.identity(symmetric)
    for text in ("", "a.b.c", "é" * 40, "x" * 9_000):
        with pytest.raises(UnauthenticatedError, match="not valid"):
            tokens.identity(text)


def test_clocks_may_differ_by_the_leeway(ca: DevelopmentCa) -> None:
    just_over = _signed(ca, exp=datetime.now(UTC) - timedelta(seconds=20))
    assert not _tokens(ca, leeway_seconds=60.0).identity(just_over).expired
    with pytest.raises(UnauthenticatedError, match="expired"):
        _tokens(ca, leeway_seconds=1.0).identity(just_over)


def test_bindings_add_roles_and_lanes(ca: DevelopmentCa, tmp_path: Path) -> None:
    file = tmp_path / "bindings.toml"
    file.write_text('[alice]\nroles = ["approver"]\nlanes = ["facts"]\n')
    tokens = _tokens(ca, bindings_file=file)
    found = tokens.identity(make_token(ca, "alice", ["reader"]))
    assert found.roles == {Role.READER, Role.APPROVER}
    assert found.lanes == {"facts"}
    narrower = tokens.identity(make_token(ca, "alice", ["reader"], ["other"]))
    assert narrower.lanes == {"other"}, "what a token says of lanes counts"


@pytest.mark.parametrize(
    "text", ['[alice]\nroles = ["gateway"]', "[alice]\nlanes = []", "alice = 1", "[", '["a"]\nx=1']
)
def test_wrong_bindings_are_refused_at_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bindings.toml"
    file.write_text(text)
    with pytest.raises(StartupError, match=r"bindings_file .*bindings.toml"):
        read_bindings(file)


def test_a_file_of_keys_is_read_again_when_it_changes(ca: DevelopmentCa, tmp_path: Path) -> None:
    own = make_ca(tmp_path / "own")
    tokens = _tokens(own)
    later = make_token(ca, "alice", ["reader"])
    with pytest.raises(UnauthenticatedError):
        tokens.identity(later)
    old = own.jwks.read_text()
    own.jwks.write_text("not a set of keys")
    assert tokens.identity(make_token(own, "bob", ["reader"])).subject == "bob", "keeps its keys"
    own.jwks.write_text(ca.jwks.read_text())
    assert tokens.identity(later).subject == "alice"
    assert old != own.jwks.read_text()


def test_a_file_without_keys_is_refused_at_start(tmp_path: Path) -> None:
    for content in ("", "{}", '{"keys": []}'):
        (tmp_path / "jwks.json").write_text(content)
        with pytest.raises(StartupError, match="jwks_file"):
            Tokens(SecuritySettings(jwks_file=tmp_path / "jwks.json"), {})


class _Keys:
    """An issuer's URL, whose keys can be exchanged."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0

    def add(self, kid: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        self.keys.append({**public, "kid": kid, "use": "sig"})
        return key


@pytest.fixture
def issuer() -> Iterator[tuple[str, _Keys]]:
    served = _Keys()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": served.keys}).encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/jwks", served
    server.shutdown()
    thread.join()
    server.server_close()


def _of(key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    claims = {"sub": "alice", "aud": "errata", "exp": datetime.now(UTC) + timedelta(hours=1)}
    return jwt.encode(claims, key, "ES256", {"kid": kid})


def test_keys_of_a_url_are_cached_and_rotated(issuer: tuple[str, _Keys]) -> None:
    url, served = issuer
    first = served.add("first")
    tokens = Tokens(SecuritySettings(jwks_url=url), {})
    for _ in range(5):
        assert tokens.identity(_of(first, "first")).subject == "alice"
    assert served.asked == 1
    second = served.add("second")
    assert tokens.identity(_of(second, "second")).subject == "alice"
    asked = served.asked
    for number in range(20):  # nobody makes us ask the issuer at each call
        with pytest.raises(UnauthenticatedError, match="no key has the id"):
            tokens.identity(_of(second, f"unknown-{number}"))
    assert served.asked == asked


def test_an_issuer_that_does_not_answer_is_no_fault_of_the_caller() -> None:
    url = f"http://127.0.0.1:{free_port()}/jwks"
    tokens = Tokens(SecuritySettings(jwks_url=url), {})
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        tokens.identity(_of(key, "any"))
