"""Appends to the log: artifacts are stored first, then the entry that names them."""

from __future__ import annotations

import asyncio
import uuid
from typing import NoReturn

from errata.artifacts.store import ArtifactStore
from errata.errors import EpochLostError, LimitExceededError
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    Payload,
    Rejection,
    Signed,
)
from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import ARTIFACT_BYTES
from errata.platform.retry import until_available
from errata.writer.advice import advised
from errata.writer.fitting import FitOutcome, Fitted
from errata.writer.ledger import EditLedger
from errata.writer.log_client import LogClient
from errata.writer.signing import Signer

AUTHOR = "errata-writer"
"""Author of what the writer appends of its own accord."""
_NAMESPACE = uuid.UUID("6f0ed5f2-4f0c-5c39-9d4f-1f3a5f0c7a11")


def own_request_id(act: str) -> str:
    """The request id of an act of the writer itself; the same in every process, for all time."""
    return str(uuid.uuid5(_NAMESPACE, act))


class Publisher:
    """The writer's only way to change the log.

    Each method returns after the ledger contains the entry. After a method has raised
    EpochLostError, `until_fenced` raises it too.
    """

    def __init__(
        self,
        log: LogClient,
        store: ArtifactStore,
        ledger: EditLedger,
        base_model_digest: str,
        signer: Signer,
    ) -> None:
        """Appends nothing yet.

        Args:
            log: appends under an epoch that is already acquired.
            store: receives the artifacts.
            ledger: folds the entries that are appended.
            base_model_digest: is written into commits.
            signer: signs commits.
        """
        self.base_model_digest = base_model_digest
        self._log = log
        self._store = store
        self._ledger = ledger
        self._signer = signer
        self._signing = asyncio.Lock()  # a signature names the signed entry before it
        self._fenced: asyncio.Future[EpochLostError] = asyncio.get_running_loop().create_future()

    async def append(self, request_id: str, payload: Payload, author: str) -> int:
        """Appends once and returns the position.

        Raises:
            LogUnavailableError, RequestIdReusedError, EpochLostError: as `LogClient.append`.
        """
        try:
            await failpoint_async("writer.append.before_send")
            seq = await self._log.append(request_id, payload, author)
        except EpochLostError as error:
            if not self._fenced.done():
                self._fenced.set_result(error)
            raise
        await failpoint_async("writer.append.before_fold")
        await self._ledger.wait_for_seq(seq)
        return seq

    async def append_with_retry(self, request_id: str, payload: Payload, author: str) -> int:
        """Appends as `append`, and retries until the log answers; commits are signed once."""
        if not isinstance(payload, Signed):
            return await self._retried(request_id, payload, author)
        async with self._signing:
            signed = self._signer.signed(payload)
            return await self._retried(request_id, signed, author)

    async def begin_trust(self) -> None:
        """Appends the trust entry that the writer's commits need, if the log lacks it.

        Raises:
            StartupError: the log does not trust the writer's key.
        """
        entry = self._signer.trust_entry(self._log.log_id)
        if entry is not None:
            keys = "|".join(key.key_id for key in entry.keys)
            act = own_request_id(f"trust|{keys}|{self._ledger.seq}")
            await self._retried(act, entry, AUTHOR)  # the key it replaces may have signed it

    async def _retried(self, request_id: str, payload: Payload, author: str) -> int:
        return await until_available(lambda: self.append(request_id, payload, author), "the log")

    async def append_own(self, act: str, payload: Payload) -> int:
        """Appends an entry that no client asked for, and retries until the log answers.

        Args:
            act: identifies the act; equal acts get equal request ids, so a writer that repeats
                an act after a restart appends nothing twice.
            payload: of the entry.
        """
        return await self.append_with_retry(own_request_id(act), payload, AUTHOR)

    async def store(self, data: bytes) -> ArtifactRef:
        """Stores an artifact, and retries until the store answers: the fit must not be lost."""
        digest = await until_available(lambda: self._store.put(data), "the artifact store")
        return ArtifactRef(digest, len(data))

    async def publish(self, lane: str, config_digest: str, outcome: FitOutcome) -> None:
        """Appends the commit and the rejections of a fitted batch.

        Args:
            lane: of the batch.
            config_digest: of the lane.
            outcome: of the fit.
        """
        rejected = outcome.rejections
        if outcome.fitted is not None:
            try:
                committed = await self._committed(lane, config_digest, outcome.fitted)
            except LimitExceededError as error:  # replicas would refuse its artifact
                edits = outcome.fitted.edits
                rejected += tuple(Rejection(edit.name, error, None) for edit in edits)
            else:
                await self.append_own(f"commit|{'|'.join(committed.edits)}", committed)
        if rejected:
            names = "|".join(rejection.edit for rejection in rejected)
            rejections = tuple(
                advised(rejection, self._ledger.get(rejection.edit), self._ledger.lanes)
                for rejection in rejected
            )
            await self.append_own(f"reject|{names}", EditsRejected(lane, rejections))

    async def until_fenced(self) -> NoReturn:
        """Waits until an append fails because a newer writer has taken over.

        Raises:
            EpochLostError: always, then.
        """
        raise await self._fenced

    async def _committed(self, lane: str, config_digest: str, fitted: Fitted) -> EditsCommitted:
        await failpoint_async("writer.commit.before_store")
        artifact = await self.store(fitted.artifact)
        memory = await self.store(fitted.memory) if fitted.memory is not None else None
        await failpoint_async("writer.commit.after_store")
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
