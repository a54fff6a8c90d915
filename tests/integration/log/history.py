"""A record of what clients of a log saw, and its judge."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc

from errata.log.chain import ORIGIN, ChainedEntry, verify_run
from errata.log.payload_convert import decode_payload
from errata_client.errors import UnavailableError, from_rpc_error
from tests.integration.log.harness import RunningLog
from tests.waiting import PATIENCE


@dataclass(frozen=True)
class Acknowledged:
    """One append that a client was told had succeeded."""

    request_id: str
    seq: int
    invoked: float
    returned: float


@dataclass
class History:
    """What clients saw, and the judge of it."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    num_retries: int = 0

    async def append(self, log: RunningLog, epoch: int, request_id: str | None = None) -> int:
        """Appends, retrying with the same key until it is acknowledged."""
        key = request_id or str(uuid.uuid4())
        invoked = time.monotonic()
        deadline = invoked + PATIENCE
        while True:
            try:
                response = await log.append(epoch, key, comment=key)
                break
            except grpc.aio.AioRpcError as error:
                cause = from_rpc_error(error)
                if not isinstance(cause, UnavailableError) or time.monotonic() > deadline:
                    raise cause from error
                self.num_retries += 1
                await asyncio.sleep(0.005)
        seq = int(response.seq)
        self.acknowledged.append(Acknowledged(key, seq, invoked, time.monotonic()))
        return seq

    def judge(self, entries: list[ChainedEntry], *, min_acknowledged: int = 1) -> None:
        """Fails unless `entries` keeps every promise made to the clients (P1, P2, P3)."""
        assert len(self.acknowledged) >= min_acknowledged, "too little traffic to mean anything"
        judge_order(entries)
        by_key: dict[str, int] = {}
        for entry in entries:
            key = decode_payload(entry).request_id
            assert key not in by_key, f"P3: {key} made entries {by_key[key]} and {entry.seq}"
            by_key[key] = entry.seq
        for told in self.acknowledged:
            found = by_key.get(told.request_id)
            assert found == told.seq, f"P2: {told.request_id} was told {told.seq}, log has {found}"
        latest = 0
        finished = sorted(self.acknowledged, key=lambda told: told.returned)
        done = iter(finished)
        pending = next(done, None)
        for told in sorted(self.acknowledged, key=lambda told: told.invoked):
            while pending is not None and pending.returned < told.invoked:
                latest = max(latest, pending.seq)
                pending = next(done, None)
            assert told.seq > latest, f"P1: {told.seq} began after {latest} was acknowledged"


def judge_order(entries: Iterable[ChainedEntry]) -> None:
    """Fails unless `entries` are 1, 2, 3, … and chained."""
    found = list(entries)
    seqs = [entry.seq for entry in found]
    assert seqs == list(range(1, len(found) + 1)), f"P1: gap, repeat or swap in {seqs}"
    verify_run(ORIGIN, found)
