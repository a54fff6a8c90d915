"""Reverts committed edits, and reports what that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from errata.editing.edit import Edit
from errata.editing.registry import methods
from errata.errors import EditNotRevertibleError, InvalidRequestError, UnavailableError
from errata.log.entries import EditsReverted, LaneConfigured
from errata.platform.detached import Detached, StillRunningError
from errata.platform.failpoints import failpoint_async
from errata.platform.security.identity import may_see
from errata.writer.edited_model import EditedModel
from errata.writer.intake import check_request_id
from errata.writer.publish import Publisher
from errata.writer.record import EditRecord, State

_CHECK_SECONDS = 5.0


class Reversals:
    """Reverts edits; each revert is carried through even if its caller leaves."""

    def __init__(self, edited: EditedModel, publisher: Publisher, detached: Detached) -> None:
        """Reverts nothing yet.

        Args:
            edited: the writer's model and ledger.
            publisher: appends to the log.
            detached: runs the reverts.
        """
        self._edited = edited
        self._ledger = edited.ledger
        self._publisher = publisher
        self._detached = detached

    async def revert(
        self,
        request_id: str,
        names: Sequence[str],
        comment: str,
        author: str,
        wait_seconds: float,
    ) -> tuple[int, list[str]]:
        """Reverts committed edits of one lane; see `Writer.revert`."""
        request_id = check_request_id(request_id)
        lane = one_lane_of([self._ledger.get(name) for name in names])
        payload = EditsReverted(tuple(names), comment)
        # Until the outcome is known nothing else may run, or an edit could be reverted twice:
        # the work must not end with its caller.
        try:
            seq, lost = await self._detached.run(
                partial(self._revert, request_id, payload, author),
                key=(request_id, payload, author),
                timeout_seconds=wait_seconds,
            )
        except StillRunningError as error:
            raise UnavailableError(
                "the writer is fitting, or the log is unavailable; retry with the same request id."
            ) from error
        _, configured = self._ledger.lanes[lane]
        meanings = [f"{lane}: {reversal_meaning(configured)}"]
        if lost:
            meanings.append(
                f"No longer answered: {self._told(lost)}. They depended on the reverted edits; "
                "submit them again."
            )
        return seq, meanings

    def _told(self, names: Sequence[str]) -> str:
        """The edits that the caller may see, and the number of the others."""
        records = [self._ledger.get(name) for name in names]
        seen = [r.edit.name for r in records if may_see(r.lane, r.namespace)]
        hidden = len(names) - len(seen)
        return ", ".join([*seen, *([f"{hidden} that you may not see"] if hidden else [])])

    async def _revert(
        self, request_id: str, payload: EditsReverted, author: str
    ) -> tuple[int, list[str]]:
        """The position, and the edits that are no longer answered from there on."""
        async with self._edited.exclusive():
            is_known = self._ledger.seq_of_request(request_id) is not None
            if not is_known:
                _check_revertible([self._ledger.get(name) for name in payload.edits])
            dependents = [] if is_known else self._ledger.dependents_of(payload.edits)
            before = await self._answered(dependents)
            # A known id is sent to the log again: the log compares the content and returns the
            # position.
            await failpoint_async("writer.revert.before_append")
            seq = await self._publisher.append_with_retry(request_id, payload, author)
            await failpoint_async("writer.revert.after_append")
            after = await self._answered(dependents)
            return seq, [name for name in before if before[name] and not after.get(name, True)]

    async def _answered(self, edits: Sequence[Edit]) -> dict[str, bool]:
        """Whether the model answers each edit now; empty if that cannot be checked soon."""
        if not edits or self._edited.awaits_restore:  # a restore must not be cancelled
            return {}
        try:
            async with asyncio.timeout(_CHECK_SECONDS):  # artifacts may be unavailable for long
                await self._edited.apply_all()
        except (TimeoutError, UnavailableError):
            return {}
        return await self._edited.answered(edits)


def one_lane_of(records: Sequence[EditRecord]) -> str:
    """The lane to which all these edits belong.

    Raises:
        InvalidRequestError: no edit, one twice, or edits of several lanes.
    """
    if not records or len({record.edit.name for record in records}) < len(records):
        raise InvalidRequestError("name at least one edit, each once.", field="names")
    lanes = sorted({record.lane for record in records})
    if len(lanes) > 1:
        raise InvalidRequestError(
            f"the edits belong to {', '.join(lanes)}; name those of one lane.", field="names"
        )
    return lanes[0]


def reversal_meaning(lane: LaneConfigured) -> str:
    """What reverting an edit of this lane means, in one sentence for the user."""
    method = methods().get(lane.method)
    if method is None:
        return f"This version does not know the method {lane.method}."
    return method.capabilities.reversal


def _instead(state: State) -> str:
    """What to do with an edit that is not committed."""
    if state.waits:
        return "; withdraw it instead"
    return "" if state.settled else ", so wait for it"


def _check_revertible(records: Sequence[EditRecord]) -> None:
    for record in records:
        if record.state is not State.COMMITTED:
            raise EditNotRevertibleError(
                f"{record.edit.name} is {record.state.value}; only committed edits can be "
                f"reverted{_instead(record.state)}.",
                edit=record.edit.name,
                state=record.state.value,
            )
