"""Credentials that are limited to namespaces: what they may name, and what they read unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.errors import InvalidRequestError, LimitExceededError, PermissionDeniedError
from errata.gateway.namespaces import readable
from errata.launch.certs import make_ca, make_token
from errata.platform.security import identity as callers
from errata.platform.security.access import authorise
from errata.platform.security.bindings import read_bindings
from errata.platform.security.identity import (
    Identity,
    may_see,
    require_namespaces,
    require_sight_of,
)
from errata.platform.security.rules import Role
from errata.platform.security.tokens import Tokens
from errata.platform.settings import SecuritySettings

READER, OPERATOR = frozenset({Role.READER}), frozenset({Role.OPERATOR})


@pytest.fixture(autouse=True)
def nobody() -> Iterator[None]:
    yield
    callers.enter(None)


def entered(*namespaces: str, roles: frozenset[Role] = READER) -> Identity:
    limits = {"namespaces": frozenset(namespaces)} if namespaces else {}
    caller = Identity("alice", roles, **limits)  # type: ignore[arg-type]
    callers.enter(caller)
    return caller


def test_who_is_not_limited_reads_the_default_namespace_unless_he_names_others() -> None:
    for caller in (None, entered()):
        callers.enter(caller)
        assert readable(()) == (), "workers get what they got from older gateways"
        assert readable(["team-b", "default"]) == ("default", "team-b")
        require_namespaces(["", "team-a"])


def test_a_credential_brings_its_namespaces() -> None:
    entered("team-a", "team-b")
    assert readable(()) == ("team-a", "team-b"), "so clients need not name them"
    assert readable(["team-b"]) == ("team-b",)
    for names in (["team-c"], ["team-a", "team-c"], ["default"], ["*"]):
        with pytest.raises(PermissionDeniedError, match="name one of team-a, team-b"):
            readable(names)
    assert may_see("lanes/main", "team-a")
    assert not may_see("lanes/main", "")


def test_a_credential_without_any_namespace_reads_nothing() -> None:
    callers.enter(Identity("alice", OPERATOR, namespaces=frozenset()))
    with pytest.raises(PermissionDeniedError, match="ask an operator"):
        readable(())


def test_all_namespaces_at_once_need_a_role() -> None:
    entered(roles=OPERATOR)
    assert readable(["*"]) == ("*",)
    entered("team-a", roles=OPERATOR)
    with pytest.raises(PermissionDeniedError, match="all namespaces at once"):
        readable(["*"])
    entered()
    with pytest.raises(PermissionDeniedError, match="one of the roles operator"):
        readable(["*"])
    callers.enter(None)
    assert readable(["*"]) == ("*",), "without authentication everybody may do everything"


def test_bad_names_are_refused_before_permissions() -> None:
    entered("team-a")
    with pytest.raises(InvalidRequestError, match="no name of a namespace"):
        readable(["Team A"])
    with pytest.raises(LimitExceededError, match="the limit is 16"):
        readable([f"n{number}" for number in range(17)])


def test_what_shows_all_namespaces_is_not_for_a_limited_credential() -> None:
    method = "/errata.v1.EditLogService/ListEntries"
    authorise(method, entered(roles=OPERATOR))
    with pytest.raises(PermissionDeniedError, match="shows all namespaces; the caller has team-a"):
        authorise(method, entered("team-a", roles=OPERATOR))


def test_an_identity_keeps_its_namespaces_on_the_way_through_a_gateway() -> None:
    caller = entered("", "team-a")
    assert Identity.from_bytes(caller.to_bytes()) == caller
    older = b'{"subject": "a", "roles": [], "lanes": ["*"], "expires": 0, "peer": ""}'
    assert Identity.from_bytes(older).may_read("team-a"), "older gateways know no namespaces"


def test_tokens_and_bindings_name_namespaces(tmp_path: Path) -> None:
    ca = make_ca(tmp_path / "ca")
    file = tmp_path / "bindings.toml"
    file.write_text('[alice]\nroles = ["reader"]\nnamespaces = ["team-b", "default"]\n')
    tokens = Tokens(SecuritySettings(jwks_file=ca.jwks), read_bindings(file))
    assert tokens.identity(make_token(ca, "bob", ["reader"])).namespaces == {"*"}
    assert tokens.identity(make_token(ca, "alice", ["reader"])).namespaces == {"team-b", ""}
    named = make_token(ca, "alice", ["reader"], namespaces=["team-a"])
    assert tokens.identity(named).namespaces == {"team-a"}, "what a token says counts"


def test_a_refusal_names_the_edit_and_not_its_namespace() -> None:
    entered("team-a")
    require_sight_of("edits/1-0", "lanes/main", "team-a")
    with pytest.raises(PermissionDeniedError, match="may not use edits/2-0") as caught:
        require_sight_of("edits/2-0", "lanes/main", "team-b")
    assert "team-b" not in f"{caught.value.message} {caught.value.metadata}"
