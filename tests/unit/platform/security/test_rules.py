"""The table of methods and roles."""

from __future__ import annotations

import pytest

from errata.errors import PermissionDeniedError, StartupError, UnauthenticatedError
from errata.platform.security import rules
from errata.platform.security.access import authorise
from errata.platform.security.identity import Identity
from errata.platform.security.rules import RULES, SERVICES, Role
from errata.platform.server import GrpcServer
from errata_client._gen.errata.v1 import (
    catalog_pb2,
    edit_log_pb2,
    editing_pb2,
    inference_pb2,
    retrieval_pb2,
)

MODULES = (catalog_pb2, edit_log_pb2, editing_pb2, inference_pb2, retrieval_pb2)


def _methods() -> set[str]:
    services = [s for module in MODULES for s in module.DESCRIPTOR.services_by_name.values()]
    return {
        f"/{service.full_name}/{method.name}" for service in services for method in service.methods
    }


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    assert RULES.keys() == _methods()


def test_a_server_with_a_method_without_a_rule_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(rules.RULES, "/errata.v1.EditLogService/Append")
    with pytest.raises(StartupError, match=r"no rule .* /errata\.v1\.EditLogService/App"):
        GrpcServer("127.0.0.1:0", ["errata.v1.EditLogService"])


def test_only_the_writer_appends_and_only_replicas_report() -> None:
    for method in ("AcquireEpoch", "Append"):
        assert RULES[f"/errata.v1.EditLogService/{method}"].roles == {Role.WRITER}
    assert RULES["/errata.v1.EditLogService/ReportPosition"].roles == {Role.REPLICA}


def test_no_role_of_people_appends_or_reports() -> None:
    people = Identity("a", frozenset(Role) - SERVICES)
    for method in ("AcquireEpoch", "Append", "ReportPosition"):
        with pytest.raises(PermissionDeniedError, match=f"may not call {method}"):
            authorise(f"/errata.v1.EditLogService/{method}", people)


def test_an_unknown_method_and_an_expired_credential_are_refused() -> None:
    everything = Identity("a", frozenset(Role))
    with pytest.raises(PermissionDeniedError, match="the roles none"):
        authorise("/errata.v1.Other/Method", everything)
    with pytest.raises(UnauthenticatedError, match="expired"):
        authorise("/errata.v1.EditLogService/GetHead", Identity("a", frozenset(Role), expires=1.0))


def test_an_identity_survives_its_way_through_a_gateway() -> None:
    sent = Identity(
        "alice", frozenset({Role.EDITOR}), frozenset({"facts"}), 12.5, "ipv4:10.0.0.1:5"
    )
    assert Identity.from_bytes(sent.to_bytes()) == sent
    for data in (
        b"",
        b"{}",
        b"[]",
        b'{"subject": "a", "roles": ["king"], "lanes": [], "expires": 0}',
    ):
        with pytest.raises(ValueError):  # noqa: PT011 the caller makes the message
            Identity.from_bytes(data)
