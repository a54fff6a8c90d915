"""Previews share the writer's time: few may wait, and edits that are due go first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from errata.editing.edit import Edit
from errata.errors import (
    LimitExceededError,
    PreconditionError,
    QueueFullError,
    UnavailableError,
)
from errata.platform.detached import Detached, StillRunningError, result_within
from errata.platform.settings import WriterSettings
from errata.writer.edited_model import EditedModel
from errata.writer.intake import Draft
from errata.writer.preview import Candidate, Preview, preview
from errata.writer.reversals import one_lane_of
from errata.writer.schedule import next_fit

_RETRY_SECONDS = 15.0
_NO_EDITS_FAILED = frozenset[str]()


class Previews:
    """Tries edits, one at a time, when no real edit is due.

    A fit must not be cut off in the middle, so a preview whose caller leaves ends behind the edit
    that is being tried.
    """

    def __init__(self, edited: EditedModel, detached: Detached, settings: WriterSettings) -> None:
        """Tries nothing yet.

        Args:
            edited: the writer's model and ledger.
            detached: runs the previews.
            settings: limits.
        """
        self._edited = edited
        self._detached = detached
        self._settings = settings
        self._num_open = 0

    async def edits(
        self, edits: Sequence[Edit], drafts: Sequence[Draft], lane: str, wait_seconds: float
    ) -> tuple[int, list[Preview]]:
        """What new edits would do; see `Writer.preview`."""
        pairs = zip(edits, drafts, strict=True)
        candidates = [
            Candidate(edit, draft.source, draft.lacks_subject, draft.times) for edit, draft in pairs
        ]
        return await self._preview(candidates, lane, wait_seconds)

    async def waiting(self, names: Sequence[str], wait_seconds: float) -> tuple[int, list[Preview]]:
        """As `edits`, for edits that are proposed or scheduled.

        Raises:
            NotFoundError: no such edit.
            PreconditionError: one is neither.
            InvalidRequestError: no edit, one twice, or edits of several lanes.
        """
        records = [self._edited.ledger.get(name) for name in names]
        lane = one_lane_of(records)
        for record in records:
            if not record.state.waits:
                raise PreconditionError(
                    f"{record.edit.name} is {record.state.value}; only proposed and scheduled "
                    "edits can be previewed.",
                    edit=record.edit.name,
                    state=record.state.value,
                )
        candidates = [
            Candidate(record.edit, record.source, record.subject_found, record.times)
            for record in records
        ]
        return await self._preview(candidates, lane, wait_seconds)

    async def _preview(
        self, candidates: Sequence[Candidate], lane: str, wait_seconds: float
    ) -> tuple[int, list[Preview]]:
        limit = self._settings.max_batch_edits
        if len(candidates) > limit:
            raise LimitExceededError(
                f"the preview has {len(candidates):,} edits; the limit is {limit:,}. Split it.",
                field="edits",
                limit=limit,
            )
        if self._num_open >= self._settings.max_previews:
            raise QueueFullError(
                f"{self._num_open} previews wait or run; the limit is "
                f"{self._settings.max_previews}, because previews use the time in which edits are "
                f"fitted. Try again in {_RETRY_SECONDS:.0f} s; or submit the edit: it takes effect "
                "only if it passes the same check, and it can be reverted.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        conflicts = self._edited.ledger.conflicts_of([each.edit for each in candidates], lane)
        candidates = [
            replace(each, conflicts=tuple(c for c in conflicts if c.index == index))
            for index, each in enumerate(candidates)
        ]
        self._num_open += 1
        left = asyncio.Event()
        task = self._detached.start(partial(self._run, candidates, lane, left))
        try:
            return await result_within(task, wait_seconds)
        except StillRunningError as error:
            raise UnavailableError(
                "the preview did not get its turn in time, because edits are being fitted; try "
                "again, and allow more time."
            ) from error
        finally:
            left.set()

    async def _run(
        self, candidates: Sequence[Candidate], lane: str, left: asyncio.Event
    ) -> tuple[int, list[Preview]]:
        try:
            await self._edited.wait_until_begun()
            found, seq = list[Preview](), 0
            for index, candidate in enumerate(candidates):
                named = replace(candidate.edit, name=f"edits/0-{index}")
                seq, made = await self._in_turn(replace(candidate, edit=named), lane, left)
                found.append(made)
            return seq, found
        finally:
            self._num_open -= 1

    async def _in_turn(
        self, candidate: Candidate, lane: str, left: asyncio.Event
    ) -> tuple[int, Preview]:
        edited, ledger = self._edited, self._edited.ledger
        while True:
            known_seq = ledger.seq
            async with edited.exclusive():
                if edited.is_closing or left.is_set():
                    raise UnavailableError("the writer is shutting down; try again.")
                await edited.apply_all()
                seq = ledger.seq
                if lane not in edited.lanes:
                    raise PreconditionError(
                        f"{lane} could not be opened; the writer's log says why.", lane=lane
                    )
                if not self._edits_are_due():
                    made = await asyncio.to_thread(
                        preview,
                        edited.model,
                        edited.lanes[lane],
                        edited.routing(),
                        candidate,
                        ledger.probes,
                        self._settings,
                    )
                    return seq, made
            # The fit of what is due ends with an entry.
            await ledger.wait_until(partial(self._has_grown, known_seq))

    def _has_grown(self, known_seq: int) -> bool:
        return self._edited.is_closing or self._edited.ledger.seq != known_seq

    def _edits_are_due(self) -> bool:
        due = next_fit(
            self._edited.ledger,
            self._edited.lanes,
            self._settings.max_batch_edits,
            _NO_EDITS_FAILED,
            datetime.now(UTC),
        )
        return bool(due.records)
