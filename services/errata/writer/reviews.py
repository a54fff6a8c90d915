"""Decisions on edits that wait: approved, rejected, withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from errata.errors import (
    InvalidRequestError,
    PermissionDeniedError,
    PreconditionError,
    RequestIdReusedError,
    UnavailableError,
)
from errata.log.entries import EditsReviewed, Verdict
from errata.platform.detached import Detached, StillRunningError
from errata.platform.failpoints import failpoint_async
from errata.platform.security.identity import current, on_behalf_of
from errata.writer.intake import check_request_id
from errata.writer.ledger import EditLedger
from errata.writer.publish import Publisher
from errata.writer.record import EditRecord, State, digest_of, order_of

_INSTEAD = {
    State.REQUESTED: "it may be fitted already: wait for it, and revert it if it must go",
    State.FITTING: "it is being fitted: wait for it, and revert it if it must go",
    State.COMMITTED: "it is in force: revert it if it must go",
    State.REJECTED: "submit the correction again, as a new edit",
    State.REVERTED: "submit the correction again, as a new edit",
    State.WITHDRAWN: "submit the correction again, as a new edit",
    State.SCHEDULED: "it waits for its time: withdraw it if it must go",
}


class Reviews:
    """Decides on edits; each decision is carried through even if its caller leaves."""

    def __init__(
        self, ledger: EditLedger, publisher: Publisher, detached: Detached, turn: asyncio.Lock
    ) -> None:
        """Decides nothing yet.

        Args:
            ledger: of all edits.
            publisher: appends to the log.
            detached: runs the decisions.
            turn: two decisions on one edit come one after the other, its expiry included.
        """
        self._ledger = ledger
        self._publisher = publisher
        self._detached = detached
        self._turn = turn

    async def decide(
        self,
        request_id: str,
        names: Sequence[str],
        verdict: Verdict,
        comment: str,
        reviewer: str,
        wait_seconds: float,
        *,
        of_others: bool = False,
    ) -> tuple[int, list[EditRecord]]:
        """Decides on edits; an approved edit is fitted as if it had been requested now.

        Args:
            request_id: of the client; equal requests with the same id get the same answer.
            names: edits, all of them proposed; those to withdraw can be scheduled, too.
            verdict: what is decided.
            comment: why; kept in the log.
            reviewer: who decides.
            wait_seconds: how long to wait for an unavailable log.
            of_others: whether he may withdraw edits of other authors.

        Returns:
            The position of the decision, and the edits behind it, in log order.

        Raises:
            NotFoundError: no such edit.
            InvalidRequestError: no edit, one twice, no reviewer, or a rejection without comment.
            PreconditionError: one does not wait for it, or a newer edit supersedes it; nothing
                changed.
            PermissionDeniedError: he would approve his own edit, or withdraw another author's.
            RequestIdReusedError: the id was used for another request.
            UnavailableError: no outcome within `wait_seconds`; a retry returns it.
        """
        request_id = check_request_id(request_id)
        if not names or len(set(names)) < len(names):
            raise InvalidRequestError("name at least one edit, each once.", field="names")
        for name in names:
            self._ledger.get(name)
        if not reviewer.strip():
            raise InvalidRequestError(
                "say who decides: without authentication, this name is compared with the author's.",
                field="author",
            )
        if verdict is Verdict.REJECTED and not comment.strip():
            raise InvalidRequestError("a rejection needs a comment; say why.", field="comment")
        ordered = tuple(sorted(names, key=order_of))
        payload = EditsReviewed(ordered, verdict, comment, reviewer)
        try:
            seq = await self._detached.run(
                partial(self._decide, request_id, payload, of_others),
                key=(request_id, payload),
                timeout_seconds=wait_seconds,
            )
        except StillRunningError as error:
            raise UnavailableError(
                "the log is unavailable; retry with the same request id."
            ) from error
        return seq, [self._ledger.get(name) for name in ordered]

    async def _decide(self, request_id: str, payload: EditsReviewed, of_others: bool) -> int:
        async with self._turn:
            known_seq = self._ledger.seq_of_request(request_id)
            if known_seq is not None:  # a retry would be signed for another place
                self._check_same(request_id, known_seq, payload)
                return known_seq
            records = [self._ledger.get(name) for name in payload.edits]
            for record in records:
                _check_waits(record, payload.verdict)
            if payload.verdict is Verdict.APPROVED:
                self._check_approval(records, payload.reviewer)
            elif payload.verdict is Verdict.WITHDRAWN and not of_others:
                _check_own(records, payload.reviewer)
            await failpoint_async("writer.review.before_append")
            seq = await self._publisher.append_with_retry(request_id, payload, payload.reviewer)
            await failpoint_async("writer.review.after_append")
            return seq

    def _check_same(self, request_id: str, seq: int, payload: EditsReviewed) -> None:
        if self._ledger.decision_at(seq) != digest_of(payload):
            raise RequestIdReusedError(
                f"request id {request_id} was used for another request. Use a new one.",
                field="request_id",
            )

    def _check_approval(self, records: Sequence[EditRecord], reviewer: str) -> None:
        seen: dict[tuple[str, str, str], str] = {}
        for record in records:
            _check_other(record, reviewer)
            name = record.edit.name
            newer = self._ledger.newer_than(record)
            if newer:
                raise PreconditionError(
                    f"{name} is superseded: {newer} corrects the same prompt and was requested "
                    "later. Reject it; or let its author submit it again, so that it is the newer "
                    "one.",
                    edit=name,
                    superseded_by=newer,
                )
            same = seen.setdefault(record.fact, name)
            if same != name:
                raise PreconditionError(
                    f"{same} and {name} correct the same prompt; approve one of them, and reject "
                    "the other.",
                    edit=name,
                    superseded_by=same,
                )


def _check_waits(record: EditRecord, verdict: Verdict) -> None:
    """Returns if the edit waits for such a decision.

    Raises:
        PreconditionError: it does not; the message says what can be done.
    """
    is_withdrawal = verdict is Verdict.WITHDRAWN
    if record.state is State.PROPOSED or (is_withdrawal and record.state is State.SCHEDULED):
        return
    name, wanted = record.edit.name, "proposed or scheduled" if is_withdrawal else "proposed"
    by = f" by {record.review.reviewer}" if record.review is not None else ""
    decided = record.state in (State.REJECTED, State.WITHDRAWN)
    raise PreconditionError(
        f"{name} is {record.state.value}{by if decided else ''}, and not {wanted}; "
        f"{_INSTEAD[record.state]}.",
        edit=name,
        state=record.state.value,
    )


def _check_other(record: EditRecord, reviewer: str) -> None:
    """Returns if reviewer and author differ, and so do those in whose name they act.

    Raises:
        PermissionDeniedError: two are the same.
    """
    own = {record.author, record.on_behalf_of} & {reviewer, on_behalf_of()} - {""}
    if not own:
        return
    name = record.edit.name
    told = "" if record.author in own else f", in the name of {min(own)}"
    how = "" if current() is not None else _UNAUTHENTICATED
    raise PermissionDeniedError(
        f"{name} was submitted by {record.author}{told}: nobody approves his own edit. Ask "
        f"another approver.{how}",
        edit=name,
    )


def _check_own(records: Sequence[EditRecord], author: str) -> None:
    """Returns if all edits are the author's.

    Raises:
        PermissionDeniedError: one is not.
    """
    for record in records:
        if record.author and author not in (record.author, record.on_behalf_of):
            how = "" if current() is not None else _UNAUTHENTICATED
            raise PermissionDeniedError(
                f"{record.edit.name} is by {record.author}: only its author or an operator may "
                f"withdraw it. An approver can reject it.{how}",
                edit=record.edit.name,
            )


_UNAUTHENTICATED = (
    " Calls are not authenticated here, so the names that callers give were compared."
)
