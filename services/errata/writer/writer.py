"""The edit-writer: one task follows the log, one fits; clients' requests are appended at once."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from errata.artifacts.store import ArtifactStore
from errata.editing.edit import Edit
from errata.editing.lane.contract import Lane, LaneReport, Resources
from errata.editing.model.causal_lm import CausalLM
from errata.editing.registry import get_method
from errata.errors import (
    EditNotRevertibleError,
    EpochLostError,
    InvalidRequestError,
    QueueFullError,
    StartupError,
    UnavailableError,
    UnknownLaneError,
)
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsRequested,
    EditsReverted,
    Entry,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
)
from errata.log.payload_convert import decode
from errata.log.subscriber import Subscriber
from errata.platform.metrics import ARTIFACT_BYTES, FIT_SECONDS
from errata.platform.retry import until_available
from errata.platform.settings import WriterSettings
from errata.platform.tracing import span
from errata.replica.applier import Applier, OpenLane
from errata.writer import checks
from errata.writer.advice import advised
from errata.writer.compaction import Compacted, Order, compact
from errata.writer.compaction_requests import CompactionRequest, CompactionRequests, reused
from errata.writer.fitting import Fitted, Outcome, fit_batch
from errata.writer.intake import Draft, accept, check_request_id
from errata.writer.lanes import LaneSetup
from errata.writer.ledger import EditLedger, EditRecord, State
from errata.writer.log_client import LogClient
from errata.writer.resources import LaneResources
from errata.writer.schedule import next_fit

_log = structlog.get_logger(__name__)
_ASKING_SECONDS = 5.0
_NAMESPACE = uuid.UUID("6f0ed5f2-4f0c-5c39-9d4f-1f3a5f0c7a11")


def _own_request_id(text: str) -> str:
    """The id of an append that the writer makes itself: the same act has the same id for ever."""
    return str(uuid.uuid5(_NAMESPACE, text))


class Writer:
    """Accepts, fits, checks, commits, rejects and reverts, as the only appender to the log."""

    def __init__(
        self,
        model: CausalLM,
        log: LogClient,
        subscriber: Subscriber,
        store: ArtifactStore,
        resources: Resources,
        settings: WriterSettings,
    ) -> None:
        """Prepares the writer; `run` works.

        Args:
            model: holds its base weights; used by nobody else.
            log: appends under an epoch that is already acquired.
            subscriber: starts at the log's first entry.
            store: where artifacts go before the entry that names them.
            resources: for the statistics that fits need.
            settings: limits.
        """
        self.ledger = EditLedger()
        self.base_model_digest = model.digest
        self._model = model
        self._log = log
        self._subscriber = subscriber
        self._store = store
        self._resources = resources
        self._adapters: Mapping[str, Sequence[Path]] = {}
        self._gathered: set[str] = set()
        self._settings = settings
        self._applier = Applier(model, store, FaissIndices(), keep_memory=True)
        self._unapplied: deque[Entry] = deque()
        self._alone: frozenset[str] = frozenset()
        # A commit lands on exactly the state that it was checked on: no revert in between.
        self._order = asyncio.Lock()
        self._reverts: set[asyncio.Task[tuple[int, list[str]]]] = set()
        self._compactions = CompactionRequests(self._compact)
        self._draining = False
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def report(self, name: str) -> LaneReport:
        """What a lane holds, as far as the writer has applied the log."""
        lane = self._applier.lanes.get(name)
        report = None if lane is None else lane.lane.report()
        return report or LaneReport({"edits": len(self.ledger.in_force(name))})

    async def run(
        self, lanes: Sequence[LaneSetup], head_seq: int, ready: Callable[[], object]
    ) -> None:
        """Works until cancelled.

        Args:
            lanes: of this deployment; new ones are appended to the log.
            head_seq: the log's head after the epoch was acquired; no older writer can append
                behind it, so everything up to it is known before the first fit.
            ready: called once requests can be served.

        Raises:
            EpochLostError: a newer writer took over.
            StartupError: a lane is in the log with another configuration.
            DataLossError: the log contradicts itself.
        """
        self._adapters = {setup.configured.lane: setup.adapters for setup in lanes}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            await self.ledger.wait_for_seq(head_seq)
            await self._configure(lanes)
            ready()
            tasks.create_task(self._fit_loop())
            await self._fatal

    async def submit(
        self, request_id: str, drafts: Sequence[Draft], lane: str, author: str
    ) -> tuple[int, list[EditRecord]]:
        """Accepts edits; durable in the log when this returns.

        Raises:
            InvalidEditError, InvalidRequestError, UnknownLaneError, LimitExceededError: refused.
            QueueFullError: too many edits are pending; retry later.
            RequestIdReusedError, LogUnavailableError, EpochLostError: from the log.
        """
        request_id = check_request_id(request_id)
        lane = lane or self._settings.default_lane
        if lane not in self.ledger.lanes:
            raise UnknownLaneError(
                f"there is no lane {lane!r}; choose one of {', '.join(sorted(self.ledger.lanes))}.",
                field="lane",
                lane=lane,
            )
        edits = accept(drafts, self._model, self._settings)
        known = self.ledger.seq_of_request(request_id) is not None
        if not known and self.ledger.num_pending + len(edits) > self._settings.max_pending_edits:
            raise QueueFullError(
                f"{self.ledger.num_pending:,} edits are pending; the limit is "
                f"{self._settings.max_pending_edits:,}. Try again in a minute.",
                retry_after_seconds=60,
            )
        kind = EditsRequested(
            lane,
            tuple(edits),
            sources=tuple(draft.source for draft in drafts),
            subjects_found=tuple(not draft.subject.strip() for draft in drafts),
        )
        seq = await self._append(request_id, kind, author)
        await self.ledger.wait_for_seq(seq)
        return seq, self.ledger.of_request(seq)

    async def revert(
        self,
        request_id: str,
        names: Sequence[str],
        comment: str,
        author: str,
        wait_seconds: float,
    ) -> tuple[int, list[str]]:
        """Takes committed edits back.

        Args:
            request_id: of the client; the same again gives the same answer.
            names: edits of one lane.
            comment: why; kept in the log.
            author: who asks.
            wait_seconds: how long a running fit, or a log that is away, may hold the answer up.

        Returns:
            The position from which on they have no effect, and what that means for their lane:
            also which other edits are no longer answered, because they leaned on these.

        Raises:
            NotFoundError: no such edit.
            EditNotRevertibleError: one is not committed or already reverted; none was reverted.
            InvalidRequestError: no edit, one twice, or edits of several lanes.
            UnavailableError: no answer within `wait_seconds`; the revert may still come to pass,
                and the same request id asks for its outcome.
        """
        request_id = check_request_id(request_id)
        if not names or len(set(names)) < len(names):
            raise InvalidRequestError("name at least one edit, each once.", field="names")
        records = [self.ledger.get(name) for name in names]
        lanes = sorted({record.lane for record in records})
        if len(lanes) > 1:
            raise InvalidRequestError(
                f"the edits belong to {', '.join(lanes)}; revert lane by lane.", field="names"
            )
        # Runs to its end even if the caller leaves: until the outcome is known, nothing else may
        # take the turn, or the same edit could be reverted twice.
        task = asyncio.create_task(
            self._revert(request_id, EditsReverted(tuple(names), comment), author)
        )
        self._reverts.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait((task,), timeout=wait_seconds)
        if not done:
            raise UnavailableError(
                "the writer is in a fit, or the log is away; ask again with the same request id."
            )
        seq, lost = task.result()
        meanings = [self.reversal(lane) for lane in lanes]
        if lost:
            meanings.append(
                f"No longer answered: {', '.join(lost)}. They leaned on what is reverted; submit "
                "them again."
            )
        return seq, meanings

    async def compact(
        self, request_id: str, name: str, order: Order, author: str, wait_seconds: float
    ) -> tuple[int, Compacted | None]:
        """Learns a lane anew from its edits in force, and commits it.

        Args:
            request_id: of the client; the same again asks for the same outcome.
            name: of the lane.
            order: what is asked for.
            author: who asks.
            wait_seconds: how long the caller can wait.

        Returns:
            The position of the commit, and what was measured; None if the request is an old one.

        Raises:
            UnknownLaneError: no such lane.
            PreconditionError, InvalidRequestError, FitError: as `compaction.compact`.
            UnavailableError: it takes longer than `wait_seconds`, and goes on; the same request id
                asks for its outcome.
            RequestIdReusedError: the id was used for something else.
        """
        request_id = check_request_id(request_id)
        if name not in self.ledger.lanes:
            raise UnknownLaneError(f"there is no lane {name!r}.", field="lane", lane=name)
        known = self.ledger.seq_of_request(request_id)
        if known is None:
            asked = CompactionRequest(name, order)
            return await self._compactions.outcome(request_id, asked, author, wait_seconds)
        if self.ledger.compacted_lane(known) != name:
            raise reused(request_id)
        return known, None

    async def _compact(
        self, request_id: str, asked: CompactionRequest, author: str
    ) -> tuple[int, Compacted]:
        name = asked.lane
        async with self._order:
            await self._apply_all()
            if self._draining or name not in self._gathered:
                raise UnavailableError("the writer is starting or shutting down; try again.")
            lane, edits = self._applier.lanes[name], self.ledger.in_force(name)
            made = await asyncio.to_thread(compact, self._model, lane, edits, asked.order)
            kind = LaneCompacted(
                name, made.edits, await self._put(made.artifact), made.seed, self.base_model_digest
            )
            seq = await self._log.append_with_retry(request_id, kind, author)
            await self.ledger.wait_for_seq(seq)
            await self._apply_all()
            return seq, made

    async def _revert(
        self, request_id: str, kind: EditsReverted, author: str
    ) -> tuple[int, list[str]]:
        """The position, and the edits that are no longer answered from there on."""
        async with self._order:
            known = self.ledger.seq_of_request(request_id) is not None
            if not known:
                _check_revertible([self.ledger.get(name) for name in kind.edits])
            leaning = [] if known else self.ledger.leaning_on(kind.edits)
            before = await self._answered(leaning)
            # A known id goes to the log again: it compares the content and tells the position.
            seq = await until_available(lambda: self._append(request_id, kind, author), "the log")
            await self.ledger.wait_for_seq(seq)
            after = await self._answered(leaning)
            return seq, [name for name in before if before[name] and not after.get(name, True)]

    async def _answered(self, edits: Sequence[Edit]) -> dict[str, bool]:
        """Whether the model answers each edit now; nothing of those that cannot be asked soon."""
        if not edits:
            return {}
        try:
            async with asyncio.timeout(_ASKING_SECONDS):  # artifacts may be away: no reason to wait
                await self._apply_all()
        except TimeoutError:
            return {}
        found: dict[str, bool] = {}
        for name, lane in self._applier.lanes.items():
            own = [edit for edit in edits if self.ledger.get(edit.name).lane == name]
            if own:
                found |= await asyncio.to_thread(checks.answered, self._model, own, lane.route)
        return found

    def _forget(self, task: asyncio.Task[tuple[int, list[str]]]) -> None:
        self._reverts.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have gone: not "never retrieved"

    async def drain(self, seconds: float) -> None:
        """Fits nothing more; returns once the running batch and reverts are in the log."""
        self._draining = True
        try:
            async with asyncio.timeout(seconds), self._order:
                pass
        except TimeoutError:
            _log.warning("a fit is given up; the next writer does it again", seconds=seconds)

    def reversal(self, lane: str) -> str:
        """What reverting an edit of `lane` means."""
        _, configured = self.ledger.lanes[lane]
        return f"{lane}: {get_method(configured.method).capabilities.reversal}"

    async def _append(self, request_id: str, kind: Payload, author: str) -> int:
        try:
            return await self._log.append(request_id, kind, author)
        except EpochLostError as error:
            if not self._fatal.done():
                self._fatal.set_exception(error)
            raise

    async def _follow(self) -> None:
        async for batch in self._subscriber.batches():
            entries = [decode(entry) for entry in batch.entries]
            self._unapplied.extend(entries)
            await self.ledger.fold(entries)

    async def _configure(self, lanes: Sequence[LaneSetup]) -> None:
        for setup in lanes:
            lane = setup.configured
            seq_known = self.ledger.lanes.get(lane.lane)
            if seq_known is not None and seq_known[1] != lane:
                raise _another_lane(lane, *seq_known)
            if seq_known is None:
                await self._try(setup)
                request_id = _own_request_id(f"lane|{lane.lane}|{lane.config_digest}")
                seq = await self._log.append_with_retry(request_id, lane, "errata-writer")
                await self.ledger.wait_for_seq(seq)
            await self._commit_lane_model(setup)

    async def _try(self, setup: LaneSetup) -> None:
        """Returns if the model can have such a lane: what the log says once, it says for good."""
        lane = setup.configured
        try:
            opened = self._applier.open_early(lane)
            if setup.adapters:
                await asyncio.to_thread(self._gather, lane.lane, opened)
        except InvalidRequestError as error:
            raise StartupError(
                f"{lane.lane} cannot be opened on this model: {error.message} Nothing was appended."
            ) from error

    def _gather(self, name: str, lane: Lane) -> None:
        """Collects what the lane's fits need besides edits; may take long."""
        lane.gather(LaneResources(self._resources, self._adapters.get(name, ())))

    async def _commit_lane_model(self, setup: LaneSetup) -> None:
        """Commits the lane's model with all its edits, unless it is the one in force."""
        lane = setup.configured.lane
        support = self._applier.open_early(setup.configured).lane_model
        if support is None:
            return
        if setup.model is None:
            if lane not in self.ledger.lane_models:
                raise StartupError(
                    f"{lane} needs a lane model; name its folder as `model` in the lanes file."
                )
            return
        data = await asyncio.to_thread(support.read, setup.model)
        digest = hashlib.sha256(data).hexdigest()
        if self.ledger.lane_models.get(lane) == digest:
            return
        edits = self.ledger.in_force(lane)
        repository = await asyncio.to_thread(support.encode, data, edits)
        version = LaneModelCommitted(
            lane=lane,
            model=await self._put(data),
            edits=tuple(edit.name for edit in edits),
            repository=await self._put(repository.to_bytes()) if repository else None,
            base_model_digest=self.base_model_digest,
        )
        request_id = _own_request_id(f"model|{lane}|{digest}|{self.ledger.seq}")
        await self.ledger.wait_for_seq(await self._settle(request_id, version))

    async def _fit_loop(self) -> None:
        for name, (_, configured) in self.ledger.lanes.items():
            lane = self._applier.open_early(configured)
            await asyncio.to_thread(self._gather, name, lane)
            self._gathered.add(name)
        wait = 0.0
        while not self._draining:
            await self.ledger.wait_until(lambda: bool(self._unapplied or self.ledger.num_pending))
            is_old = wait > 0 and not await self._hears_something(wait)
            if not is_old and self.ledger.num_pending < self._settings.max_batch_edits:
                await asyncio.sleep(self._settings.batch_window_seconds)
            async with self._order:
                await self._apply_all()
                if not self._draining:
                    wait = await self._fit_next()

    async def _hears_something(self, seconds: float) -> bool:
        """Whether the log goes on before the time is up: another lane's edit must not wait."""
        known = self.ledger.seq
        try:
            async with asyncio.timeout(seconds):
                await self.ledger.wait_until(lambda: self.ledger.seq != known)
        except TimeoutError:
            return False
        return True

    async def _apply_all(self) -> None:
        while self._unapplied:
            entry = self._unapplied[0]
            change = await until_available(partial(self._applier.prepare, entry), "artifacts")
            if change is not None:
                change.apply()
            self._unapplied.popleft()

    async def _fit_next(self) -> float:
        """Fits what is next; returns after how many seconds to look again."""
        lanes = self._applier.lanes
        now = datetime.now(UTC)
        due = next_fit(self.ledger, lanes, self._settings.max_batch_edits, self._alone, now)
        if not due.records:
            return due.wait_seconds
        lane = lanes[due.records[0].lane]
        batch = await asyncio.to_thread(due.chosen, lane)
        traces = [record.trace_parent for record in batch]
        name = batch[0].lane
        with span("fit", parent=traces[0], links=traces[1:], lane=name, num_edits=len(batch)):
            await self._fit(lane, batch)
        for warning in self.report(batch[0].lane).warnings:
            _log.warning("lane fills up", lane=batch[0].lane, warning=warning)
        return 0.0

    async def _fit(self, lane: OpenLane, batch: Sequence[EditRecord]) -> None:
        name, names = batch[0].lane, [record.edit.name for record in batch]
        self.ledger.set_fitting(names, True)
        try:
            with FIT_SECONDS.labels(name).time():
                outcome = await asyncio.to_thread(
                    fit_batch,
                    self._model,
                    lane,
                    [record.edit for record in batch],
                    self._settings,
                )
        finally:
            self.ledger.set_fitting(names, False)
        await self._publish(name, lane.configured.config_digest, outcome)

    async def _publish(self, lane: str, config_digest: str, outcome: Outcome) -> None:
        """Artifacts first, then the entry that names them; then the ledger has it."""
        self._alone = (self._alone | outcome.retry_alone) - outcome.settled
        seq = self.ledger.seq
        if outcome.fitted is not None:
            committed = await self._store_fitted(lane, config_digest, outcome.fitted)
            request_id = _own_request_id(f"commit|{'|'.join(committed.edits)}")
            seq = await self._settle(request_id, committed)
        if outcome.rejections:
            names = "|".join(rejection.edit for rejection in outcome.rejections)
            told = (
                advised(rejection, self.ledger.get(rejection.edit), self.ledger.lanes)
                for rejection in outcome.rejections
            )
            rejected = EditsRejected(lane, tuple(told))
            seq = await self._settle(_own_request_id(f"reject|{names}"), rejected)
        await self.ledger.wait_for_seq(seq)

    async def _settle(self, request_id: str, kind: Payload) -> int:
        return await self._log.append_with_retry(request_id, kind, "errata-writer")

    async def _put(self, data: bytes) -> ArtifactRef:
        """Stores an artifact; waits out a store that is away, for the fit must not be lost."""
        digest = await until_available(lambda: self._store.put(data), "the artifact store")
        return ArtifactRef(digest, len(data))

    async def _store_fitted(self, lane: str, config_digest: str, fitted: Fitted) -> EditsCommitted:
        artifact = await self._put(fitted.artifact)
        memory = await self._put(fitted.memory) if fitted.memory is not None else None
        ARTIFACT_BYTES.labels(lane).inc(artifact.size_bytes)
        return EditsCommitted(
            lane=lane,
            edits=tuple(edit.name for edit in fitted.edits),
            figures=fitted.figures,
            artifact=artifact,
            memory=memory,
            seed=fitted.seed,
            base_model_digest=self.base_model_digest,
            lane_config_digest=config_digest,
        )


def _another_lane(lane: LaneConfigured, seq: int, known: LaneConfigured) -> StartupError:
    if lane.base_model_digest != known.base_model_digest:
        return StartupError(
            f"the log was made with another base model: {lane.lane} (entry {seq}) has "
            f"{known.base_model_digest[:12]}, this model is {lane.base_model_digest[:12]}. Start "
            "with the model of before (model.path, --model), or a new log in another data_dir "
            "(--data-dir).",
            lane=lane.lane,
        )
    return StartupError(
        f"{lane.lane} is in the log with another configuration (entry {seq}); give the new one "
        "another name in the lanes file, or start a new log in another data_dir (--data-dir).",
        lane=lane.lane,
    )


def _check_revertible(records: Sequence[EditRecord]) -> None:
    for record in records:
        if record.state is not State.COMMITTED:
            raise EditNotRevertibleError(
                f"{record.edit.name} is {record.state.value}; only committed edits can be "
                "reverted" + (", so wait for it." if not record.state.settled else "."),
                edit=record.edit.name,
                state=record.state.value,
            )
