"""Opens canaries, changes their audiences, and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from errata.editing.canaries import OpenCanary
from errata.errors import (
    ErrataError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    RequestIdReusedError,
    UnavailableError,
    UnknownLaneError,
)
from errata.log.canaries import CanaryTable
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import EditsRejected, Rejection
from errata.log.methods import METHODS
from errata.platform.detached import Detached, StillRunningError
from errata.platform.failpoints import failpoint_async
from errata.writer.canary_book import CanaryBook, CanaryRecord, decision_digest
from errata.writer.canary_tally import CanaryTally
from errata.writer.edited_model import EditedModel
from errata.writer.intake import check_request_id
from errata.writer.publish import AUTHOR, Publisher, own_request_id
from errata.writer.record import State
from errata.writer.timetable import parts_of

_log = structlog.get_logger(__name__)


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
            InvalidRequestError: a form is impossible, or the lane's edits are in force for all.
            UnknownLaneError: no such lane.
            PreconditionError: it has ended, has another lane or namespace, or is open and must be
                new.
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

        A canary that is rolled back loses its audience at once, whatever is being fitted.

        Args:
            request_id: of the client; equal requests with the same id get the same answer.
            ending: what is asked for.
            wait_seconds: how long to wait for a running fit or an unavailable log.

        Returns:
            The position of the entry, and the canary behind it.

        Raises:
            NotFoundError: no such canary.
            PreconditionError: it has ended.
            RequestIdReusedError: the id was used for another request.
            UnavailableError: no outcome within `wait_seconds`; a retry returns it.
        """
        request_id = check_request_id(request_id)
        self.get(ending.name)
        work = partial(self._end, request_id, ending)
        seq = await self._carried(work, (request_id, ending), wait_seconds)
        return seq, self.get(ending.name)

    def end_by_rule(self, name: str, outcome: Outcome, comment: str) -> None:
        """Starts to end a canary as the writer itself, unless that was started already."""
        ending = Ending(name, outcome, comment, AUTHOR)
        self._detached.start(partial(self._end_own, ending), key=("rule", name))

    async def _end_own(self, ending: Ending) -> None:
        try:
            seq = await self._end(own_request_id(f"canary-end|{ending.name}"), ending)
        except ErrataError as error:
            _log.warning("a canary's rule had no effect", canary=ending.name, reason=error.message)
        else:
            _log.warning(
                "a canary ends by its rule", seq=seq, canary=ending.name, why=ending.comment
            )

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
        if known_seq is not None:
            return known_seq
        if ending.outcome is Outcome.ROLLED_BACK:
            await self._stop(ending)
        # What is being fitted belongs to the canary or to its namespace, not to both.
        async with self._edited.exclusive(), self._turn:
            self._open(ending.name)
            if ending.outcome is Outcome.ROLLED_BACK:
                await self._reject_waiting(ending)
            names = self._book.edits_of(ending.name)
            ended = replace(
                asked,
                edits=tuple(n for n in names if self._ledger.get(n).state is State.COMMITTED),
                comparison=self.tally.of(ending.name),
            )
            return await self._append(request_id, ended, ending.author)

    async def _stop(self, ending: Ending) -> None:
        """Takes away the canary's audience, for a fit can take minutes."""
        async with self._turn:
            canary = self._open(ending.name)
            if canary.rule is None and not canary.has_audience:
                return
            stopped = CanarySet(
                canary.name, canary.lane, canary.namespace, 0, (), None, ending.comment
            )
            act = own_request_id(f"canary-stop|{canary.name}|{canary.set_seq}")
            await self._append(act, stopped, ending.author)

    async def _reject_waiting(self, ending: Ending) -> None:
        records = [self._ledger.get(name) for name in self._book.edits_of(ending.name)]
        waiting = [record.edit.name for record in records if not record.state.settled]
        for names in parts_of(waiting):
            why = PreconditionError(
                f"{ending.name} was rolled back before it was committed"
                f"{f': {ending.comment}' if ending.comment else '.'}",
                canary=ending.name,
            )
            rejections = tuple(Rejection(name, why, None) for name in names)
            await self._publisher.append_own(
                f"canary-reject|{'|'.join(names)}",
                EditsRejected(records[0].lane, rejections),
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
        if wanted.lane not in lanes:
            raise UnknownLaneError(
                f"there is no lane {wanted.lane!r}; choose one of {', '.join(sorted(lanes))}.",
                field="lane",
                lane=wanted.lane,
            )
        method = lanes[wanted.lane].method
        if method in METHODS and not METHODS[method].namespaces:
            able = [
                name
                for name, lane in sorted(lanes.items())
                if lane.method in METHODS and METHODS[lane.method].namespaces
            ]
            others = f"use {' or '.join(able)}" if able else "configure a lane that routes"
            raise InvalidRequestError(
                f"{wanted.lane} uses {method}, whose edits are in force for every request, so it "
                f"cannot have a canary; {others}.",
                field="lane",
                lane=wanted.lane,
            )
        table = CanaryTable()
        for known in self._book:
            if known.is_open:
                who = known.lane, known.namespace, known.share_ppm, known.readers
                table.open[known.name] = OpenCanary(known.name, known.opened_seq, *who)
            else:
                table.ended.add(known.name)
        table.check_set(wanted, method)
