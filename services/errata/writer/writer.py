"""The edit-writer: one task follows the log, one fits; clients' requests are appended at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext

import structlog

from errata.artifacts.store import ArtifactStore
from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.editing.lane.contract import LaneReport, Resources
from errata.editing.model.causal_lm import CausalLM
from errata.errors import QueueFullError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import UNTIMED, EditsRequested, ProbesSet
from errata.log.reader import EntryReader
from errata.log.subscriber import Subscriber
from errata.platform.detached import Detached
from errata.platform.failpoints import failpoint_async
from errata.platform.settings import WriterSettings
from errata.replica.applier import Applier
from errata.writer.canaries import Canaries
from errata.writer.canary_intake import check_canaries
from errata.writer.canary_tally import CanaryTally
from errata.writer.canary_watch import CanaryWatch, Reports
from errata.writer.compaction import Compacted, CompactionOptions
from errata.writer.compaction_requests import CompactionRequests
from errata.writer.edited_model import EditedModel
from errata.writer.fit_loop import FitLoop
from errata.writer.intake import (
    Draft,
    accept,
    accept_probes,
    check_known,
    check_lane_takes,
    check_request_id,
    refuse_expired,
)
from errata.writer.lanes import LaneSetup
from errata.writer.log_client import LogClient
from errata.writer.preview import Preview
from errata.writer.previews import Previews
from errata.writer.publish import Publisher
from errata.writer.record import EditRecord
from errata.writer.reversals import Reversals
from errata.writer.reviews import Reviews
from errata.writer.signing import Signer, WriterKeys
from errata.writer.snapshots import SnapshotMaker, begin_from_newest, skip_to_newest
from errata.writer.startup import Startup
from errata.writer.timetable import Clock, Timetable, utc_now

_log = structlog.get_logger(__name__)
_NO_KEYS = WriterKeys()


class Writer:
    """Accepts, fits, checks, commits, rejects and reverts, as the only appender to the log.

    Attributes:
        ledger: of all edits.
        reviews: decides on edits that wait.
        previews: tries edits.
        canaries: opens and ends canaries.
    """

    def __init__(
        self,
        model: CausalLM,
        log: LogClient,
        subscriber: Subscriber,
        store: ArtifactStore,
        resources: Resources,
        settings: WriterSettings,
        keys: WriterKeys = _NO_KEYS,
        clock: Clock = utc_now,
        reports: Reports | None = None,
    ) -> None:
        """Prepares the writer; `run` works.

        Args:
            model: holds its base weights; nobody else uses it.
            log: appends under the epoch that `run` lets it acquire.
            subscriber: starts at the log's first entry, or behind the newest snapshot.
            store: receives artifacts before the entry that names them is appended.
            resources: for the statistics that fits need.
            settings: limits.
            keys: sign its commits; by default they are not signed.
            clock: decides when edits begin and expire, and when canaries are promoted.
            reports: asks all log services what replicas counted; by default, that of `log`.
        """
        self._applier = Applier(model, store, FaissIndices(settings.index), keep_memory=True)
        self._edited = EditedModel(model, self._applier, subscriber, EntryReader(log.voided_seqs))
        self.ledger = self._edited.ledger
        signer = Signer(keys, self._edited.gate)
        self._publisher = Publisher(log, store, self.ledger, model.digest, signer)
        self._detached = Detached()
        self._fits = FitLoop(self._edited, self._publisher, settings)
        self._reversals = Reversals(self._edited, self._publisher, self._detached)
        self._decisions = asyncio.Lock()
        self.reviews = Reviews(self.ledger, self._publisher, self._detached, self._decisions)
        self._timetable = Timetable(self._edited, self._publisher, self._decisions, clock)
        tally = CanaryTally()
        self.canaries = Canaries(
            self._edited, self._publisher, self._detached, self._decisions, tally
        )
        self._canary_watch = CanaryWatch(
            self._edited, self.canaries, tally, reports or log.canary_reports, clock
        )
        self._clock = clock
        self.previews = Previews(self._edited, self._detached, settings)
        self._log, self._store = log, store
        self._snapshots = SnapshotMaker(self._edited, self._publisher, log, store, settings)
        self._compactions = CompactionRequests(self._edited, self._publisher, self._detached)
        self._resources = resources
        self._settings = settings

    async def run(
        self,
        lanes: Sequence[LaneSetup],
        take_over: Callable[[], Awaitable[int]],
        ready: Callable[[], object],
    ) -> None:
        """Works until cancelled.

        Args:
            lanes: of this deployment; new ones are appended to the log.
            take_over: acquires the epoch and returns the log's head; no older writer can append
                behind it, so everything up to it is known before the first fit. Until then the
                writer only follows the log.
            ready: called once requests can be served.

        Raises:
            EpochLostError: a newer writer took over.
            StartupError: a lane is in the log with another configuration, or the log does not
                trust the writer's key.
            CommitNotTrustedError: no trusted key signed a commit in the log.
            SeqTrimmedError: the newest snapshot cannot be used, and the log was trimmed.
            DataLossError: the log contradicts itself; an ImpossibleEntryError names the entry and
                the command that voids it.
        """
        await begin_from_newest(self._edited, self._log, self._store)
        startup = Startup(self._edited, self._publisher, self._resources, lanes)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._edited.follow())
            await self.ledger.wait_for_seq(await take_over())
            self._edited.check_confirmed()
            if self._settings.standby:
                await skip_to_newest(self._edited, self._log, self._store)
            await self._publisher.begin_trust()
            await startup.configure()
            await self._timetable.act()  # what was due while no writer ran
            ready()
            tasks.create_task(self._timetable.run())
            tasks.create_task(self._canary_watch.run())
            tasks.create_task(self._fit(startup))
            tasks.create_task(self._snapshots.run())
            await self._publisher.until_fenced()

    async def show(self, head_seq: int, ready: Callable[[], object]) -> None:
        """Follows the log until cancelled, and appends nothing: for a system that is read only.

        Args:
            head_seq: the log's head.
            ready: called once the ledger contains the log up to there.

        Raises:
            BaseModelMismatchError, InvalidRequestError: the model cannot carry a lane of the log.
            CommitNotTrustedError, DataLossError: as `run`.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._edited.follow())
            # Not `wait_for_seq`: the ledger does not count a voided entry, which may be the last.
            await self.ledger.wait_until(lambda: self._edited.read_seq >= head_seq)
            for _, configured in self.ledger.lanes.values():
                self._edited.open_early(configured)
            ready()

    async def _fit(self, startup: Startup) -> None:
        await startup.gather()
        self._edited.begin()
        await self._fits.run()

    async def submit(
        self, request_id: str, drafts: Sequence[Draft], lane: str, author: str
    ) -> tuple[int, list[EditRecord]]:
        """Accepts edits; they are durable in the log when this returns.

        Returns:
            The position of the request, and its edits.

        Raises:
            InvalidEditError, InvalidRequestError, UnknownLaneError, LimitExceededError: refused.
            QueueFullError: too many edits are pending; retry later.
            PreconditionError: a canary is not open.
            RequestIdReusedError, LogUnavailableError, EpochLostError: from the log.
        """
        request_id = check_request_id(request_id)
        is_known = self.ledger.seq_of_request(request_id) is not None
        lane, edits = await self._accepted(drafts, lane, is_known=is_known)
        max_pending = self._settings.max_pending_edits
        num_pending, num_waiting = self.ledger.num_pending, self.ledger.num_waiting
        if not is_known and num_pending + num_waiting + len(edits) > max_pending:
            more = f", and {num_waiting:,} wait for approval or a time" if num_waiting else ""
            raise QueueFullError(
                f"{num_pending:,} edits are pending{more}; the limit is {max_pending:,}. Try again "
                "in a minute.",
                retry_after_seconds=60,
            )
        if not is_known:  # a retry can come later than the time that it names
            refuse_expired(drafts, self._clock())
        times = tuple(draft.times for draft in drafts)
        payload = EditsRequested(
            lane,
            tuple(edits),
            sources=tuple(draft.source for draft in drafts),
            subjects_found=tuple(draft.lacks_subject for draft in drafts),
            schedules=times if any(each != UNTIMED for each in times) else (),
        )
        # A canary ends without edits that nobody has decided on: none may arrive meanwhile.
        async with self._decisions if payload.has_canaries else nullcontext():
            if self.ledger.seq_of_request(request_id) is None:  # canaries may have changed
                check_canaries(edits, lane, self.ledger.canaries)
            await failpoint_async("writer.submit.before_append")
            seq = await self._publisher.append(request_id, payload, author)
            await failpoint_async("writer.submit.after_append")
        return seq, self.ledger.of_request(seq)

    async def preview(
        self, drafts: Sequence[Draft], lane: str, wait_seconds: float
    ) -> tuple[int, list[Preview]]:
        """Tries edits, each by itself, and appends nothing.

        Args:
            drafts: at most as many as one batch has.
            lane: `lanes/{lane}`; the default lane if empty.
            wait_seconds: how long the caller can wait.

        Returns:
            The position at whose state they were tried, and what each of them would do.

        Raises:
            InvalidEditError, InvalidRequestError, UnknownLaneError, LimitExceededError: refused.
            QueueFullError: too many previews wait.
            PreconditionError: the lane could not be opened, or a canary is not open.
            UnavailableError: the writer is starting or ending, or fitted other edits all the time.
        """
        lane, edits = await self._accepted(drafts, lane)
        refuse_expired(drafts, self._clock())
        return await self.previews.edits(edits, drafts, lane, wait_seconds)

    def rests(self, record: EditRecord) -> bool:
        """Whether nothing but a decision, or a time to come, can change an edit."""
        return record.rests(self._clock())

    async def set_probes(self, request_id: str, prompts: Sequence[Prompt], author: str) -> int:
        """Replaces the deployment's probe set; returns the position of its entry.

        Raises:
            InvalidEditError, LimitExceededError: a prompt is unusable, or there are too many.
            RequestIdReusedError, LogUnavailableError, EpochLostError: from the log.
        """
        request_id = check_request_id(request_id)
        model, settings = self._edited.model, self._settings
        checked = await asyncio.to_thread(accept_probes, prompts, model, settings)
        return await self._publisher.append(request_id, ProbesSet(checked), author)

    async def _accepted(
        self, drafts: Sequence[Draft], lane: str, *, is_known: bool = False
    ) -> tuple[str, list[Edit]]:
        """The lane's name, and the edits, checked; if `is_known`, they were accepted before."""
        lane = lane or self._settings.default_lane
        check_known(lane, self.ledger.lanes)
        edits = await asyncio.to_thread(accept, drafts, self._edited.model, self._settings)
        if not is_known:  # a retry can come when its canary has ended
            check_canaries(edits, lane, self.ledger.canaries)
        check_lane_takes(edits, lane, [each for _, each in self.ledger.lanes.values()])
        return lane, edits

    async def revert(
        self,
        request_id: str,
        names: Sequence[str],
        comment: str,
        author: str,
        wait_seconds: float,
    ) -> tuple[int, list[str]]:
        """Reverts committed edits.

        Args:
            request_id: of the client; equal requests with the same id get the same answer.
            names: edits of one lane.
            comment: why; kept in the log.
            author: who asks.
            wait_seconds: how long to wait for a running fit or an unavailable log.

        Returns:
            The position from which on they have no effect, and what that means for their lane.
            The latter includes which other edits are no longer answered because they depended on
            the reverted ones.

        Raises:
            NotFoundError: no such edit.
            EditNotRevertibleError: one is not committed or already reverted; none was reverted.
            InvalidRequestError: no edit, one twice, or edits of several lanes.
            UnavailableError: no outcome within `wait_seconds`; the edits may still be reverted, and
                a retry with the same request id returns the outcome.
        """
        return await self._reversals.revert(request_id, names, comment, author, wait_seconds)

    async def compact(
        self, request_id: str, name: str, order: CompactionOptions, author: str, wait_seconds: float
    ) -> tuple[int, Compacted | None]:
        """Retrains a lane from its active edits, and commits it.

        Args:
            request_id: of the client; equal requests with the same id get the same outcome.
            name: of the lane.
            order: what is asked for.
            author: who asks.
            wait_seconds: how long the caller can wait.

        Returns:
            The position of the commit, and what was measured; None instead of the latter if an
            earlier writer or a forgotten request committed it.

        Raises:
            UnknownLaneError: no such lane.
            PreconditionError, InvalidRequestError, FitError: as `compaction.compact`.
            QueueFullError: another compaction of the lane is running or waiting.
            UnavailableError: it is still running after `wait_seconds`; a retry with the same
                request id returns the outcome.
            RequestIdReusedError: the id was used for another request.
        """
        return await self._compactions.compact(request_id, name, order, author, wait_seconds)

    def report(self, name: str) -> LaneReport:
        """What a lane contains, as far as the writer has applied the log."""
        return self._edited.report(name)

    async def drain(self, seconds: float) -> None:
        """Starts no more fits; returns once the running fit, reverts and compactions have ended.

        Args:
            seconds: how long to wait for them.
        """
        self._edited.close()
        await self.ledger.notify()  # a compaction that waits for edits waits in vain
        try:
            async with asyncio.timeout(seconds):
                async with self._edited.exclusive():
                    pass
                await self._detached.drain()
        except TimeoutError:
            _log.warning("running work is given up; the next writer repeats it", seconds=seconds)
