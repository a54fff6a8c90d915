"""Opens canaries, changes their audiences, and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from errata.editing.canaries import OpenCanary
from errata.errors import (
    ErrataError,
    NotFoundError,
    PreconditionError,
    RequestIdReusedError,
    UnavailableError,
)
from errata.log.canaries import CanaryTable, rolling_back
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import EditsRejected, Rejection
from errata.platform.detached import Detached, StillRunningError
from errata.platform.failpoints import failpoint_async
from errata.writer.canary_book import CanaryBook, CanaryRecord, decision_digest
from errata.writer.canary_lanes import check_able
from errata.writer.canary_rules import Decision
from errata.writer.canary_tally import CanaryTally
from errata.writer.edited_model import EditedModel
from errata.writer.intake import check_known, check_request_id
from errata.writer.publish import AUTHOR, Publisher, own_request_id
from errata.writer.record import State
from errata.writer.timetable import parts_of

_log = structlog.get_logger(__name__)

Decide = Callable[[CanaryRecord], Decision | None]
"""What the rule of an open canary says at present."""


def no_canary(name: str) -> NotFoundError:
    """Why a name of no canary cannot be used."""
    return NotFoundError(f"there is no canary {name[:80]!r}.", name=name)


@dataclass(frozen=True, slots=True)
class Ending:
    """What is asked for.

    Attributes:
        name: of the canary.
        outcome: promoted or rolled back.
        comment: why.
        author: who asks.
    """

    name: str
    outcome: Outcome
    comment: str
    author: str


class Canaries:
    """Decides on canaries; each decision is carried through even if its caller leaves."""

    def __init__(
        self,
        edited: EditedModel,
        publisher: Publisher,
        detached: Detached,
        turn: asyncio.Lock,
        tally: CanaryTally,
    ) -> None:
        """Decides nothing yet.

        Args:
            edited: the writer's model and ledger.
            publisher: appends to the log.
            detached: runs the decisions.
            turn: held by whoever decides on edits that wait, or submits edits to a canary.
            tally: what replicas counted.
        """
        self._edited = edited
        self._ledger = edited.ledger
        self._book: CanaryBook = edited.ledger.canaries
        self._publisher = publisher
        self._detached = detached
        self._turn = turn
        self.tally = tally

    def get(self, name: str) -> CanaryRecord:
        """One canary.

        Raises:
            NotFoundError: no such canary.
        """
        found = self._book.get(name)
        if found is None:
            raise no_canary(name)
        return found

    async def set(
        self,
        request_id: str,
        wanted: CanarySet,
        author: str,
        wait_seconds: float,
        *,
        must_be_new: bool = False,
    ) -> tuple[int, CanaryRecord]:
        """Opens a canary, or changes the audience or the rule of an open one.

        Args:
            request_id: of the client; equal requests with the same id get the same answer.
            wanted: what is asked for.
            author: who asks.
            wait_seconds: how long to wait for an unavailable log.
            must_be_new: only open it.

        Returns:
            The position of the entry, and the canary behind it.

        Raises:
            InvalidRequestError: a form is impossible, or the lane cannot have a canary.
            UnknownLaneError: no such lane.
            PreconditionError: it has ended or is being rolled back, has another lane or namespace,
                or is open and must be new.
            LimitExceededError: too many are open, or too many readers are named.
            RequestIdReusedError: the id was used for another request.
            UnavailableError: no outcome within `wait_seconds`; a retry returns it.
        """
        request_id = check_request_id(request_id)
        work = partial(self._set, request_id, wanted, author, must_be_new)
        key = request_id, wanted, author, must_be_new
        seq = await self._carried(work, key, wait_seconds)
        return seq, self.get(wanted.canary)

    async def end(
        self, request_id: str, ending: Ending, wait_seconds: float
    ) -> tuple[int, CanaryRecord]:
        """Promotes a canary or rolls it back, between two fits.

        A canary that is rolled back loses its audience at once, whatever is being fitted, and
        nothing else can become of it any more.

        Args:
            request_id: of the client; equal requests with the same id get the same answer.
            ending: what is asked for.
            wait_seconds: how long to wait for a running fit or an unavailable log.

        Returns:
            The position of the entry, and the canary behind it.

        Raises:
            NotFoundError: no such canary.
            PreconditionError: it has ended; or it is to be promoted, and is being rolled back, or
                its audience or rule changed while the promotion waited.
            RequestIdReusedError: the id was used for another request.
            UnavailableError: no outcome within `wait_seconds`; a retry returns it.
        """
        request_id = check_request_id(request_id)
        self.get(ending.name)
        work = partial(self._end, request_id, ending)
        seq = await self._carried(work, (request_id, ending), wait_seconds)
        return seq, self.get(ending.name)

    def end_by_rule(self, name: str, outcome: Outcome, decide: Decide) -> None:
        """Starts to end a canary as its rule says, unless that was started already.

        Args:
            name: of the canary.
            outcome: what its rule says now.
            decide: is asked again before the entry is appended.
        """
        work = partial(self._end_by_rule, name, outcome, decide)
        self._detached.start(work, key=("rule", name, outcome))

    def finish_roll_back(self, name: str) -> asyncio.Task[int]:
        """Carries out a roll-back that has begun, whoever began it; joins what runs already."""
        return self._detached.start(partial(self._finish, name), key=("finish", name))

    async def _carried(self, work: partial[Any], key: Hashable, wait_seconds: float) -> int:
        try:
            return await self._detached.run(work, key=key, timeout_seconds=wait_seconds)
        except StillRunningError as error:
            raise UnavailableError(
                "the writer is fitting, or the log is unavailable; retry with the same request id."
            ) from error

    async def _set(self, request_id: str, wanted: CanarySet, author: str, must_be_new: bool) -> int:
        async with self._turn:
            known_seq = self._known_seq(request_id, wanted, author)
            if known_seq is not None:
                return known_seq
            known = self._book.get(wanted.canary)
            if must_be_new and known is not None and known.is_open:
                raise PreconditionError(
                    f"{known.name} is open already; change it with set, or choose another name.",
                    canary=known.name,
                )
            self._check(wanted)
            return await self._append(request_id, wanted, author)

    async def _end(self, request_id: str, ending: Ending) -> int:
        asked = CanaryEnded(ending.name, ending.outcome, (), ending.comment)
        known_seq = self._known_seq(request_id, asked, ending.author)
        if ending.outcome is Outcome.PROMOTED:
            if known_seq is not None:
                return known_seq
            set_seq = self._open(ending.name).set_seq
            return await self._promote(request_id, partial(self._unchanged, ending, set_seq))
        if known_seq is None:
            await self._stop(request_id, lambda: ending)
        return await self.finish_roll_back(ending.name)

    async def _end_by_rule(self, name: str, outcome: Outcome, decide: Decide) -> None:
        def present() -> Ending:
            decision = decide(self._open(name))
            if decision is None or decision.outcome is not outcome:
                raise PreconditionError("the rule says something else by now.", canary=name)
            return Ending(name, outcome, decision.comment, AUTHOR)

        try:
            if outcome is Outcome.PROMOTED:
                seq = await self._promote(own_request_id(f"canary-end|{name}"), present)
            else:
                await self._stop(own_request_id(f"canary-stop|{name}"), present)
                seq = await self.finish_roll_back(name)
        except ErrataError as error:
            _log.warning("a canary's rule had no effect", canary=name, reason=error.message)
        else:
            _log.warning("a canary ends by its rule", seq=seq, canary=name, outcome=outcome.value)

    async def _promote(self, request_id: str, present: Callable[[], Ending]) -> int:
        """Promotes; `present` says what is wanted once no fit runs, or raises."""
        async with self._edited.exclusive(), self._turn:
            ending = present()
            return await self._append_end(request_id, ending)

    def _unchanged(self, ending: Ending, set_seq: int) -> Ending:
        """The ending, if the canary is what it was when somebody asked for it."""
        canary = self._open(ending.name)
        if canary.rolling_back:
            raise rolling_back(canary.name)
        if canary.set_seq != set_seq:
            raise PreconditionError(
                f"its audience or rule changed at entry {canary.set_seq} while the promotion of "
                f"{canary.name} waited; ask again.",
                canary=canary.name,
                seq=canary.set_seq,
            )
        return ending

    async def _stop(self, request_id: str, present: Callable[[], Ending]) -> None:
        """Begins a roll-back: takes away the canary's audience, for a fit can take minutes."""
        async with self._turn:
            ending = present()
            canary = self._open(ending.name)
            what = canary.name, canary.lane, canary.namespace
            stopped = CanarySet(*what, 0, (), None, ending.comment, rolls_back=True)
            await self._append(request_id, stopped, ending.author)

    async def _finish(self, name: str) -> int:
        """Ends a canary that is being rolled back; returns the position of the entry."""
        try:
            if not self.get(name).is_open:
                return self.get(name).ended_seq
            # What is being fitted must not be committed behind the entry that reverts the rest.
            async with self._edited.exclusive(), self._turn:
                canary = self.get(name)
                await self._reject_waiting(canary)
                ending = Ending(name, Outcome.ROLLED_BACK, canary.comment, canary.set_by)
                return await self._append_end(own_request_id(f"canary-end|{name}"), ending)
        except ErrataError as error:
            _log.warning("a roll-back is not finished", canary=name, reason=error.message)
            raise

    async def _append_end(self, request_id: str, ending: Ending) -> int:
        names = self._book.edits_of(ending.name)
        committed = tuple(n for n in names if self._ledger.get(n).state is State.COMMITTED)
        counted = self.tally.of(ending.name)
        ended = CanaryEnded(ending.name, ending.outcome, committed, ending.comment, counted)
        return await self._append(request_id, ended, ending.author)

    async def _reject_waiting(self, canary: CanaryRecord) -> None:
        records = [self._ledger.get(name) for name in self._book.edits_of(canary.name)]
        waiting = [record.edit.name for record in records if not record.state.settled]
        for names in parts_of(waiting):
            why = PreconditionError(
                f"{canary.name} was rolled back before this edit was committed"
                f"{f': {canary.comment}' if canary.comment else '.'}",
                canary=canary.name,
            )
            rejections = tuple(Rejection(name, why, None) for name in names)
            await failpoint_async("writer.canary.before_reject")
            await self._publisher.append_own(
                f"canary-reject|{'|'.join(names)}", EditsRejected(canary.lane, rejections)
            )

    async def _append(self, request_id: str, payload: CanarySet | CanaryEnded, author: str) -> int:
        await failpoint_async("writer.canary.before_append")
        seq = await self._publisher.append_with_retry(request_id, payload, author)
        await failpoint_async("writer.canary.after_append")
        return seq

    def _known_seq(
        self, request_id: str, asked: CanarySet | CanaryEnded, author: str
    ) -> int | None:
        """The position of a request that is repeated; a retry would be signed for another place.

        Raises:
            RequestIdReusedError: it was another request.
        """
        known_seq = self._ledger.seq_of_request(request_id)
        if known_seq is None:
            return None
        if self._ledger.decision_at(known_seq) != decision_digest(asked, author):
            raise RequestIdReusedError(
                f"request id {request_id} was used for another request. Use a new one.",
                field="request_id",
            )
        return known_seq

    def _open(self, name: str) -> CanaryRecord:
        found = self.get(name)
        if found.outcome is not None:
            by = f" by {found.ended_by}" if found.ended_by else ""
            raise PreconditionError(
                f"{name} was {found.outcome}{by} at entry {found.ended_seq}.",
                canary=name,
                seq=found.ended_seq,
            )
        return found

    def _check(self, wanted: CanarySet) -> None:
        lanes = {name: lane for name, (_, lane) in self._ledger.lanes.items()}
        check_known(wanted.lane, lanes)
        if self._book.get(wanted.canary) is None:
            check_able(wanted.lane, lanes)
        table = CanaryTable()
        for known in self._book:
            if known.is_open:
                who = known.lane, known.namespace, known.share_ppm, known.readers
                table.open[known.name] = OpenCanary(
                    known.name, known.opened_seq, *who, known.rolling_back
                )
            else:
                table.ended.add(known.name)
        table.check_set(wanted, lanes[wanted.lane].method)
