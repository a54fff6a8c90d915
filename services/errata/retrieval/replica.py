"""One retrieval replica: follows the log and decides, as of a position, which edits claim what.

It holds no LLM. Decisions of the last positions stay possible, because a worker asks as of the
position that its answer will report (P6), and workers are not all at the same one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from errata.artifacts.source import ArtifactSource
from errata.editing.causal_lm import KnownLLM
from errata.editing.method import Claim
from errata.errors import InvalidRequestError, LimitExceededError, SeqTrimmedError
from errata.log.chain import ORIGIN
from errata.log.chain import Entry as LogEntry
from errata.log.subscriber import Subscriber
from errata.platform.retry import until_available
from errata.platform.settings import RetrievalSettings
from errata.replica.applier import Applier, Routing
from errata.replica.convert import decode
from errata.replica.entries import LaneConfigured
from errata.replica.follower import Follower, Tolerance
from errata.retrieval.index import FaissIndices


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """The replica at one position of the log.

    Attributes:
        seq: the position.
        chain_digest: H(seq), 32 bytes.
        state_digest: SHA-256, hex, of what the lanes that route held.
        routing: None while no edit could claim anything.
        num_edits: in force, by lane that routes.
    """

    seq: int
    chain_digest: bytes
    state_digest: str
    routing: Routing | None
    num_edits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided on one prompt.

    Attributes:
        claims: lane → what it decided.
        winner: the newest edit of those that claim the prompt; empty if none does.
    """

    claims: dict[str, Claim]
    winner: str


class RetrievalReplica:
    """Follows the log; decides on batches of prompts, one batch at a time."""

    def __init__(
        self, name: str, artifacts: ArtifactSource, log_address: str, settings: RetrievalSettings
    ) -> None:
        """Prepares; `start` follows.

        Args:
            name: unique among replicas.
            artifacts: where commits' tensors come from.
            log_address: of the edit log service.
            settings: limits.
        """
        self.name = name
        self._artifacts = artifacts
        self._settings = settings
        self._applier: Applier | None = None  # the first lane says which LLM the log is about
        origin = Moment(0, ORIGIN.chain_digest, "", None, {})
        self._moments: deque[Moment] = deque([origin], maxlen=settings.history)
        # Encoder and indices are used by one thread at a time; the loop stays free to follow.
        self._thread = ThreadPoolExecutor(1, "errata-routing", self._begin_thread)
        self._follower = Follower(
            name,
            "retrieval",
            Subscriber(log_address),
            log_address,
            Tolerance(settings.max_lag, settings.max_silence_seconds),
            apply=self._apply,
            stands=lambda: self.latest,
        )

    @property
    def latest(self) -> Moment:
        """Where the replica stands."""
        return self._moments[-1]

    @property
    def floor_seq(self) -> int:
        """First position as of which it can still be asked."""
        return self._moments[0].seq

    async def start(self) -> None:
        """Starts, and returns once the replica has applied all that the log held.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: the log cannot be applied here.
        """
        try:
            await self._follower.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops following; running decisions end first."""
        await self._follower.close()
        await asyncio.to_thread(self._thread.shutdown)

    def check_health(self) -> None:
        """Returns if the replica may answer.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or does not hear of it.
        """
        self._follower.check_health()

    async def route(
        self,
        prompts: Sequence[str],
        *,
        at_seq: int | None,
        min_seq: int | None,
        timeout_seconds: float,
    ) -> tuple[Moment, list[Decision]]:
        """Decides on a batch.

        Args:
            prompts: at least one.
            at_seq: as of exactly this position.
            min_seq: or at this position or a later one; the latest if both are None.
            timeout_seconds: until the caller's deadline.

        Returns:
            As of when, and a decision for each prompt.

        Raises:
            InvalidRequestError, LimitExceededError: refused.
            SeqTrimmedError: `at_seq` is older than what the replica keeps.
            ReplicaBehindError, SeqBeyondHeadError: the position was not reached.
        """
        _check(prompts, at_seq, min_seq, self._settings.max_prompts)
        await self._follower.reach(at_seq if at_seq is not None else min_seq, timeout_seconds)
        moment = self.latest if at_seq is None else self._as_of(at_seq)
        loop = asyncio.get_running_loop()
        return moment, await loop.run_in_executor(self._thread, _decide, moment, list(prompts))

    def _as_of(self, seq: int) -> Moment:
        found = next((m for m in reversed(self._moments) if m.seq <= seq), None)
        if found is None:
            raise SeqTrimmedError(
                f"{self.name} keeps positions from {self.floor_seq:,} on and was asked as of "
                f"{seq:,}; ask as of a later one.",
                field="at_seq",
                at_seq=seq,
                floor_seq=self.floor_seq,
            )
        return found

    async def _apply(self, entry: LogEntry, last: bool) -> None:
        decoded = decode(entry)
        if self._applier is None and isinstance(decoded.kind, LaneConfigured):
            llm = KnownLLM(decoded.kind.base_model_digest, torch.device(self._settings.device))
            self._applier = Applier(llm, self._artifacts, FaissIndices())
        applier = self._applier
        swap = None
        if applier is not None:
            swap = await until_available(lambda: applier.prepare(decoded), "artifacts")
        if swap is None and not last:
            return  # the position moves with the batch's next change
        if swap is not None:
            swap()
        self._moments.append(self._moment(entry, changed=swap is not None))

    def _moment(self, entry: LogEntry, *, changed: bool) -> Moment:
        before, applier = self.latest, self._applier
        if not changed or applier is None:
            return Moment(
                entry.seq,
                entry.chain_digest,
                before.state_digest,
                before.routing,
                before.num_edits,
            )
        return Moment(
            entry.seq,
            entry.chain_digest,
            applier.digest(),
            applier.routing(),
            applier.num_edits_by_lane(),
        )

    def _begin_thread(self) -> None:
        if self._settings.device == "cpu":
            torch.set_num_threads(self._settings.num_threads)


def _decide(moment: Moment, prompts: list[str]) -> list[Decision]:
    routing = moment.routing
    if routing is None:
        return [Decision({}, "")] * len(prompts)
    return [
        Decision(dict(zip(routing.views, row, strict=True)), routing.winner(row))
        for row in routing.claims(prompts)
    ]


def _check(
    prompts: Sequence[str], at_seq: int | None, min_seq: int | None, max_prompts: int
) -> None:
    if not prompts:
        raise InvalidRequestError("the request has no prompt; give one.", field="prompts")
    if len(prompts) > max_prompts:
        raise LimitExceededError(
            f"the request has {len(prompts):,} prompts; the limit is {max_prompts:,}. Split it.",
            field="prompts",
            limit=max_prompts,
        )
    if at_seq is not None and min_seq is not None:
        raise InvalidRequestError("give at_seq or min_seq, not both.", field="at_seq")
    for index, prompt in enumerate(prompts):
        if not prompt.strip():
            raise InvalidRequestError(
                f"prompts[{index}] is empty; fill it in.", field=f"prompts[{index}]"
            )
