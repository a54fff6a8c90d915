"""`errata adapters`: an ELDER lane's experts as PEFT adapters."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from pathlib import Path

from rich.console import Console

from errata.artifacts.remote import RemoteArtifacts
from errata.editing.lane.contract import Lane
from errata.editing.model.causal_lm import CausalLM, KnownLLM
from errata.errors import LogUnavailableError, PreconditionError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import (
    EditsCommitted,
    EditsReverted,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
)
from errata.log.payload_convert import decode
from errata.log.subscriber import Subscriber
from errata.platform.retry import until_available
from errata.platform.server import open_channel
from errata.platform.settings import Settings
from errata.replica.applier import Applier
from errata.replica.base_model import load_base_model
from errata_client import Client

_SECONDS = 60.0


def export_adapters(
    settings: Settings, target: str, lane: str, out: Path, console: Console
) -> None:
    """Writes the experts that are in force; the lane goes on.

    Args:
        settings: say what the base model is.
        target: `host:port` of the gateway.
        lane: such as `lanes/main`.
        out: gets a folder for each expert.
        console: is told where they are.

    Raises:
        PreconditionError: there is no such lane, no edit was committed in it, or it is of another
            method.
        InvalidRequestError: `out` holds adapters already.
        LogUnavailableError: the log cannot be reached.
    """
    with Client(target) as client:
        head_seq = client.head().seq
        if lane not in {known.name for known in client.lanes()}:
            raise PreconditionError(f"there is no {lane}; `errata lanes` lists what there is.")
    llm = load_base_model(settings)
    seq, found = asyncio.run(_lane_at(target, lane, llm, head_seq))
    export = None if found is None else found.export
    if export is None:
        raise PreconditionError(f"{lane} has no adapters to export; ELDER lanes have.")
    made = export(llm, out, settings.model.path or "")
    console.print(f"{len(made)} adapters of {lane} as of {seq} are in {out}")


async def _lane_at(target: str, lane: str, llm: CausalLM, head_seq: int) -> tuple[int, Lane | None]:
    """A position, and the lane as the log's entries up to there left it."""
    seq, mine = 0, set[str]()
    async with open_channel(target) as channel:
        # Without weights, as in the retrieval service: nothing but the lane is made of it.
        known = KnownLLM(llm.digest, llm.device)
        applier = Applier(known, RemoteArtifacts(channel), FaissIndices())
        try:
            async with (
                asyncio.timeout(_SECONDS) as silence,
                aclosing(Subscriber(target).batches()) as batches,
            ):
                async for batch in batches:
                    for entry in map(decode, batch.entries):
                        seq = entry.seq
                        if _is_about(entry.payload, lane, mine):
                            prepare = partial(applier.prepare, entry)
                            change = await until_available(prepare, "artifacts")
                            if change is not None:
                                change.apply()
                        silence.reschedule(asyncio.get_running_loop().time() + _SECONDS)
                    if seq >= head_seq:
                        break
        except TimeoutError as error:
            raise LogUnavailableError(
                f"the edit log or its artifacts are not to be had behind {target}.", target=target
            ) from error
    found = applier.lanes.get(lane)
    return seq, None if found is None else found.lane


def _is_about(kind: Payload, lane: str, mine: set[str]) -> bool:
    """Whether an entry changes the lane; `mine` gets the names of its edits."""
    match kind:
        case EditsCommitted(lane=name, edits=edits):
            if name == lane:
                mine.update(edits)
            return name == lane
        case LaneConfigured(lane=name) | LaneModelCommitted(lane=name) | LaneCompacted(lane=name):
            return name == lane
        case EditsReverted(edits=edits):  # all of one lane
            return not mine.isdisjoint(edits)
        case _:
            return False
