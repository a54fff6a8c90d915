"""`errata adapters`: an ELDER lane's experts as PEFT adapters."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import grpc
from rich.console import Console

from errata.artifacts.remote import RemoteArtifacts
from errata.editing.lane.contract import Lane
from errata.editing.model.causal_lm import CausalLM, KnownLLM
from errata.errors import PreconditionError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import (
    EditsCommitted,
    EditsRequested,
    EditsReverted,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
)
from errata.log.reader import EntryReader
from errata.log.remote import RemoteLog
from errata.platform.server import COMMON_OPTIONS
from errata.platform.settings import Settings
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.replica.base_model import load_base_model
from errata_client import Client
from errata_client._credentials import async_channel

_TIMEOUT_SECONDS = 60.0  # of one call


def export_adapters(
    settings: Settings, target: str, lane: str, out: Path, console: Console
) -> None:
    """Writes a lane's active experts as adapters; the lane does not change.

    Args:
        settings: give the base model.
        target: `host:port` of the gateway.
        lane: such as `lanes/main`.
        out: receives one folder per expert.
        console: receives a line about the result.

    Raises:
        PreconditionError: the lane does not exist, has no committed edit, or has a method without
            adapters.
        InvalidRequestError: `out` already holds adapters.
        LogUnavailableError: the log or its artifacts are not available.
    """
    with Client(target) as client:
        if lane not in {known.name for known in client.lanes()}:
            raise PreconditionError(f"there is no {lane}; `errata lanes` lists all lanes.")
    llm = load_base_model(settings)
    seq, opened = asyncio.run(_lane_at(settings, target, lane, llm))
    export = None if opened is None else opened.export
    if export is None:
        raise PreconditionError(f"{lane} has no adapters to export; only ELDER lanes have them.")
    folders = export(llm, out, settings.model.path or "")
    console.print(f"{len(folders)} adapters of {lane} as of {seq} are in {out}")


def _dial(target: str) -> grpc.aio.Channel:
    return async_channel(target, COMMON_OPTIONS)


async def _lane_at(
    settings: Settings, target: str, lane: str, llm: CausalLM
) -> tuple[int, Lane | None]:
    """Applies the log's entries of a lane up to the head; the position reached, and the lane."""
    seq, lane_edits = 0, set[str]()
    async with _dial(target) as channel:
        # Without weights, as in the retrieval service: the lane's contents suffice.
        known_llm = KnownLLM(llm.digest, llm.device)
        artifacts = RemoteArtifacts(channel, max_bytes=settings.artifacts.max_bytes)
        applier = Applier(known_llm, artifacts, FaissIndices())
        log = RemoteLog(channel)
        reader = EntryReader(log.voided_seqs)
        async with aclosing(log.all_entries()) as entries:
            async for stored in entries:
                seq, entry = stored.seq, await reader.read(stored)
                if entry is None:
                    continue
                if _changes_lane(entry.payload, lane, lane_edits):
                    await apply(applier, entry)
                else:
                    applier.gate.let_pass(entry)
    opened = applier.lanes.get(lane)
    return seq, None if opened is None else opened.lane


def _changes_lane(payload: Payload, lane: str, lane_edits: set[str]) -> bool:
    """Whether an entry changes the lane; adds the names of the lane's edits to `lane_edits`."""
    match payload:
        case EditsCommitted(lane=name, edits=edits):
            if name == lane:
                lane_edits.update(edits)
            return name == lane
        case LaneConfigured(lane=name) | LaneModelCommitted(lane=name) | LaneCompacted(lane=name):
            return name == lane
        case EditsRequested(lane=name):  # tells the edits' namespaces
            return name == lane
        case EditsReverted(edits=edits):  # all edits of a reversal are in one lane
            return not lane_edits.isdisjoint(edits)
        case _:
            return False
