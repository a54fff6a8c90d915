"""Checks edits that are submitted to canaries."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.edit import Edit
from errata.editing.namespaces import own_namespace, shown
from errata.errors import (
    InvalidEditError,
    InvalidRequestError,
    LimitExceededError,
    PreconditionError,
)
from errata.log.canaries import check_canary_name
from errata.platform.security.identity import may_see
from errata.writer.canary_book import CanaryBook

MAX_EDITS = 10_000
"""Most edits of a canary: one entry of the log lists them when it ends."""


def checked_name(canary: str, field: str) -> str:
    """The canary that an edit names, if one can have this name.

    Raises:
        InvalidEditError: none can.
    """
    if canary:
        try:
            check_canary_name(canary)
        except InvalidRequestError as error:
            raise InvalidEditError(f"{field}: {error.message}", field=field) from error
    return canary


def check_canaries(edits: Sequence[Edit], lane: str, canaries: CanaryBook) -> None:
    """Returns if the canaries of edits are open, and of the edits' lane and namespace.

    To a caller who may not see a canary, it is one that does not exist.

    Args:
        edits: of a request.
        lane: of all of them.
        canaries: all of them.

    Raises:
        PreconditionError: a canary is not open.
        InvalidEditError: it has another lane or namespace.
        LimitExceededError: it would have too many edits.
    """
    for index, edit in enumerate(edits):
        if edit.canary:
            _check(edit, f"edits[{index}].canary", lane, canaries)
    for name in {edit.canary for edit in edits} - {""}:
        count = len(canaries.edits_of(name)) + sum(edit.canary == name for edit in edits)
        if count > MAX_EDITS:
            raise LimitExceededError(
                f"{name} would have {count:,} edits; the limit is {MAX_EDITS:,}. Open another one.",
                field="edits",
                limit=MAX_EDITS,
            )


def _check(edit: Edit, field: str, lane: str, canaries: CanaryBook) -> None:
    known = canaries.get(edit.canary)
    if known is None or not may_see(known.lane, known.namespace):
        raise PreconditionError(
            f"{field}: {edit.canary} is not open; open it first, or leave it out.",
            field=field,
            canary=edit.canary,
        )
    if known.outcome is not None:
        raise PreconditionError(
            f"{field}: {edit.canary} was {known.outcome} at entry {known.ended_seq}; open another "
            "one, or leave it out.",
            field=field,
            canary=edit.canary,
        )
    if known.rolling_back:
        raise PreconditionError(
            f"{field}: {edit.canary} is being rolled back; open another one, or leave it out.",
            field=field,
            canary=edit.canary,
        )
    if known.lane != lane:
        raise InvalidEditError(
            f"{field}: {edit.canary} is of {known.lane}, and not of {lane}; submit to its lane, or "
            "leave it out.",
            field=field,
            lane=known.lane,
        )
    if known.namespace != own_namespace(edit.namespace):
        raise InvalidEditError(
            f"{field}: {edit.canary} is of the namespace {shown(known.namespace)}, and not of "
            f"{shown(edit.namespace)}; name that one, or none.",
            field=field,
        )
