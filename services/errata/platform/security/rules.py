"""One table: which role may call which method. What is not in it is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Roles of people and of services."""

    READER = "reader"
    EDITOR = "editor"
    APPROVER = "approver"
    OPERATOR = "operator"
    WRITER = "writer"
    REPLICA = "replica"
    GATEWAY = "gateway"


SERVICES = frozenset({Role.WRITER, Role.REPLICA, Role.GATEWAY})
"""Roles that a certificate alone can give."""


READ_EVERY_NAMESPACE = frozenset({Role.OPERATOR})
"""Roles that may read all namespaces at once."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method needs.

    Attributes:
        roles: any one of them is enough.
        changes: whether it changes anything; such calls are always audited.
        of_all_lanes: whether its answer holds what concerns any lane and any namespace.
    """

    roles: frozenset[Role]
    changes: bool = False
    of_all_lanes: bool = False


def _rule(*roles: Role, changes: bool = False, of_all_lanes: bool = False) -> Rule:
    return Rule(frozenset(roles), changes, of_all_lanes)


_PEOPLE = (Role.READER, Role.EDITOR, Role.APPROVER, Role.OPERATOR)
_READERS = _rule(*_PEOPLE)
_LOG_READERS = _rule(*_PEOPLE, Role.WRITER, Role.REPLICA)
_CONTENT_READERS = _rule(*_PEOPLE, Role.WRITER, Role.REPLICA, of_all_lanes=True)

RULES: dict[str, Rule] = {
    "/errata.v1.InferenceService/Generate": _READERS,
    "/errata.v1.InferenceService/StreamGenerate": _READERS,
    "/errata.v1.InferenceService/Score": _READERS,
    "/errata.v1.InferenceService/GenerateEverywhere": _rule(Role.OPERATOR),
    "/errata.v1.InferenceService/GetModel": _READERS,
    "/errata.v1.EditingService/SubmitEdits": _rule(Role.EDITOR, changes=True),
    "/errata.v1.EditingService/GetEdit": _READERS,
    "/errata.v1.EditingService/WaitEdits": _READERS,
    "/errata.v1.EditingService/ListEdits": _READERS,
    "/errata.v1.EditingService/RevertEdits": _rule(Role.EDITOR, Role.OPERATOR, changes=True),
    "/errata.v1.EditingService/ListLanes": _READERS,
    "/errata.v1.EditingService/CompactLane": _rule(Role.OPERATOR, changes=True),
    "/errata.v1.EditingService/PreviewEdits": _rule(Role.EDITOR, Role.APPROVER, Role.OPERATOR),
    "/errata.v1.EditingService/ReviewEdits": _rule(Role.APPROVER, changes=True),
    "/errata.v1.EditingService/WithdrawEdits": _rule(Role.EDITOR, Role.OPERATOR, changes=True),
    "/errata.v1.EditingService/SetProbes": _rule(Role.OPERATOR, changes=True),
    "/errata.v1.EditingService/GetProbes": _READERS,
    "/errata.v1.EditingService/SetCanary": _rule(Role.EDITOR, Role.OPERATOR, changes=True),
    "/errata.v1.EditingService/EndCanary": _rule(Role.EDITOR, Role.OPERATOR, changes=True),
    "/errata.v1.EditingService/ListCanaries": _READERS,
    "/errata.v1.EditLogService/AcquireEpoch": _rule(Role.WRITER, changes=True),
    "/errata.v1.EditLogService/RenewLease": _rule(Role.WRITER),  # each second, so not audited
    "/errata.v1.EditLogService/Append": _rule(Role.WRITER, changes=True),
    "/errata.v1.EditLogService/GetHead": _LOG_READERS,
    "/errata.v1.EditLogService/ListEntries": _CONTENT_READERS,
    "/errata.v1.EditLogService/Subscribe": _CONTENT_READERS,
    "/errata.v1.EditLogService/ReportPosition": _rule(Role.REPLICA),
    "/errata.v1.EditLogService/ListReplicas": _LOG_READERS,
    "/errata.v1.EditLogService/GetArtifact": _CONTENT_READERS,
    "/errata.v1.CatalogService/FindEdits": _READERS,
    "/errata.v1.CatalogService/WatchEvents": _READERS,
    "/errata.v1.CatalogService/ShapedAnswers": _READERS,
    "/errata.v1.CatalogService/ReportShapedAnswers": _rule(Role.GATEWAY),
    "/errata.v1.RetrievalService/Route": _rule(Role.REPLICA),
    "/errata.v1.RetrievalService/GetRetrievalStatus": _rule(Role.REPLICA, Role.OPERATOR),
}
"""By the method's path."""

HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection."


def without_rule(methods: Iterable[str]) -> list[str]:
    """Methods that nobody could ever call, sorted."""
    return sorted(set(methods) - RULES.keys())
