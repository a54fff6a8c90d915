"""The canaries of the log's entries up to a position; a part of `LogFold`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from errata.editing.canaries import WHOLE, OpenCanary
from errata.editing.namespaces import (
    CANARY_NAME,
    MAX_READ,
    is_canary_place,
    is_namespace,
    shown,
)
from errata.errors import InvalidRequestError, LimitExceededError, PreconditionError
from errata.log import forms
from errata.log.canary_entries import CanaryEnded, CanaryRule, CanarySet, Outcome
from errata.log.entries import EditsRequested
from errata.log.methods import METHODS
from errata.log.policy import WAITING
from errata.log.standing import Known, Standing

MAX_OPEN = 64
"""Most canaries that can be open at once: each request is compared with all of them."""
_UNSETTLED = frozenset({Standing.REQUESTED, *WAITING})


class CanaryTable:
    """Open canaries, and the names of those that ended.

    Attributes:
        open: by name.
        ended: names, which no other canary can have.
    """

    def __init__(self) -> None:
        """Knows none."""
        self.open: dict[str, OpenCanary] = {}
        self.ended: set[str] = set()

    @property
    def is_used(self) -> bool:
        """Whether there ever was a canary."""
        return bool(self.open or self.ended)

    def copy(self) -> CanaryTable:
        """The same canaries; later entries leave it as it is."""
        copied = CanaryTable()
        copied.open, copied.ended = dict(self.open), set(self.ended)
        return copied

    def check_set(self, payload: CanarySet, method: str) -> None:
        """Returns if the canary can be opened or changed so.

        Args:
            payload: names a lane that exists.
            method: of the lane.

        Raises:
            InvalidRequestError: a form is impossible, or the lane decides nothing per request.
            LimitExceededError: too many are open, or too many readers are named.
            PreconditionError: it has ended or is being rolled back, or has another lane or
                namespace.
        """
        name = payload.canary
        check_canary_name(name)
        if method in METHODS and not METHODS[method].namespaces:
            raise InvalidRequestError(
                f"{payload.lane} uses {method}, whose edits are in force for every request; it "
                "cannot have a canary.",
                field="lane",
            )
        if not is_namespace(payload.namespace):
            raise InvalidRequestError(
                f"{forms.shown(payload.namespace)} cannot be the name of a namespace.",
                field="namespace",
            )
        _check_audience(payload)
        if payload.rule is not None:
            _check_rule(payload.rule)
        if name in self.ended:
            raise PreconditionError(f"{name} has ended; give the new canary another name.")
        known = self.open.get(name)
        if known is None and len(self.open) >= MAX_OPEN:
            raise LimitExceededError(
                f"{len(self.open)} canaries are open, which is the limit; end one of them first.",
                limit=MAX_OPEN,
            )
        if known is not None and known.lane != payload.lane:
            raise PreconditionError(
                f"{name} is of {known.lane}, which cannot change; open another canary."
            )
        if known is not None and known.namespace != payload.namespace:
            raise PreconditionError(
                f"{name} is of the namespace {shown(known.namespace)}, which cannot change; open "
                "another canary."
            )
        if known is None and payload.rolls_back:
            raise PreconditionError(f"{name} is not open, so it cannot be rolled back.")
        if known is not None and known.rolling_back and not payload.rolls_back:
            raise rolling_back(name)

    def set(self, payload: CanarySet, seq: int) -> None:
        """Opens or changes a canary by the entry at `seq`, which was checked."""
        name = payload.canary
        self.open[name] = opened_by(payload, seq, self.open.get(name))

    def check_request(self, payload: EditsRequested) -> None:
        """Returns if the canaries of requested edits are open, and of the same lane and namespace.

        Raises:
            PreconditionError: one is not.
            InvalidRequestError: an edit lies in the place of another canary.
        """
        for index, edit in enumerate(payload.edits):
            if not edit.canary and not is_canary_place(edit.namespace):
                continue
            field = f"edits[{index}].canary"
            known = self.open.get(edit.canary)
            if known is None:
                how = "has ended" if edit.canary in self.ended else "is not open; open it first"
                raise PreconditionError(
                    f"the canary {forms.shown(edit.canary)} {how}.", field=field
                )
            if known.rolling_back:
                raise rolling_back(edit.canary, field)
            if known.lane != payload.lane:
                raise PreconditionError(
                    f"{edit.canary} is of {known.lane}, and not of {payload.lane}.", field=field
                )
            if edit.namespace != known.place:
                raise PreconditionError(
                    f"{edit.canary} is of the namespace {shown(known.namespace)}, and not of "
                    f"{shown(edit.namespace)}.",
                    field=field,
                )

    def check_ended(self, payload: CanaryEnded, edits: Mapping[str, Known]) -> None:
        """Returns if the canary can end so.

        Args:
            payload: names all of its committed edits.
            edits: every edit's lane, state and place.

        Raises:
            PreconditionError: it is not open, has other edits, or some of them are not settled; or
                it is being rolled back and would be promoted.
        """
        known = self.open.get(payload.canary)
        if known is None:
            how = "has ended already" if payload.canary in self.ended else "is not open"
            raise PreconditionError(f"the canary {forms.shown(payload.canary)} {how}.")
        if known.rolling_back and payload.outcome is not Outcome.ROLLED_BACK:
            raise rolling_back(payload.canary)
        own = dict(edits_at(known.place, edits))
        committed = [name for name, each in own.items() if each.standing is Standing.COMMITTED]
        if list(payload.edits) != committed:
            raise PreconditionError(
                f"it names {len(payload.edits)} edits, which are not exactly the "
                f"{len(committed)} that are in force in {payload.canary}."
            )
        waiting = [name for name, each in own.items() if each.standing in _UNSETTLED]
        if payload.outcome is Outcome.ROLLED_BACK and waiting:
            raise PreconditionError(
                f"{waiting[0]} is not committed yet; reject what waits in {payload.canary} first."
            )

    def end(self, name: str) -> OpenCanary:
        """Ends a canary; returns what it was."""
        self.ended.add(name)
        return self.open.pop(name)


def opened_by(payload: CanarySet, seq: int, known: OpenCanary | None) -> OpenCanary:
    """The canary that the entry at `seq` opens, or changes if it is `known`."""
    return OpenCanary(
        payload.canary,
        seq if known is None else known.opened_seq,
        payload.lane,
        payload.namespace,
        payload.share_ppm,
        payload.readers,
        payload.rolls_back,
    )


def rolling_back(name: str, field: str | None = None) -> PreconditionError:
    """Why nothing but its end can follow about a canary."""
    return PreconditionError(f"{name} is being rolled back.", field=field, canary=name)


def edits_at(place: str, edits: Mapping[str, Known]) -> Iterator[tuple[str, Known]]:
    """The edits that lie in a place, in log order."""
    return ((name, known) for name, known in edits.items() if known.namespace == place)


def check_canary_name(name: str) -> None:
    """Returns if a canary can have this name.

    Raises:
        InvalidRequestError: it cannot.
    """
    if not CANARY_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"the canary's name {forms.shown(name)} is not valid; use canaries/ and at most 63 "
            "characters of a-z, 0-9 and -, starting with a letter.",
            field="name",
        )


def _check_audience(payload: CanarySet) -> None:
    if not 0 <= payload.share_ppm <= WHOLE:
        raise InvalidRequestError(
            f"the share is {payload.share_ppm / WHOLE:g}; it can be 0 to 1.", field="share"
        )
    readers: Collection[str] = payload.readers
    if len(readers) > MAX_READ:
        raise LimitExceededError(
            f"readers has {len(readers)} names; the limit is {MAX_READ}.",
            field="readers",
            limit=MAX_READ,
        )
    for reader in readers:
        if not is_namespace(reader):
            raise InvalidRequestError(
                f"{forms.shown(reader)} cannot be the name of a namespace.", field="readers"
            )
    if payload.namespace in readers:  # whoever reads the namespace would be in it
        raise InvalidRequestError(
            f"readers names the canary's own namespace {shown(payload.namespace)}; give share 1 "
            "instead.",
            field="readers",
        )
    if list(readers) != sorted(set(readers)):
        raise InvalidRequestError("the readers are not sorted, each once.", field="readers")
    if payload.rolls_back and (payload.share_ppm or readers or payload.rule is not None):
        raise InvalidRequestError(
            "a canary that is rolled back has no audience and no rule.", field="rolls_back"
        )


def _check_rule(rule: CanaryRule) -> None:
    if rule.min_requests < 1:
        raise InvalidRequestError(
            f"rule.min_requests is {rule.min_requests}; give at least 1.",
            field="rule.min_requests",
        )
    if not (math.isfinite(rule.max_error_increase) and 0 <= rule.max_error_increase <= 1):
        raise InvalidRequestError(
            f"rule.max_error_increase is {rule.max_error_increase:g}; give a share of 0 to 1.",
            field="rule.max_error_increase",
        )
    if rule.promote_after_seconds < 0:
        raise InvalidRequestError(
            f"rule.promote_after_seconds is {rule.promote_after_seconds}; give 0 (never) or more.",
            field="rule.promote_after_seconds",
        )
