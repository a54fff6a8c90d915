"""`errata adapters`: an ELDER lane's experts as PEFT adapters."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from rich.console import Console

from errata.artifacts.remote import RemoteArtifacts
from errata.editing.artifact import Artifact
from errata.editing.elder import peft
from errata.editing.elder.experts import Experts
from errata.editing.elder.state import shape_of
from errata.errors import LogUnavailableError, PreconditionError
from errata.log.subscriber import Subscriber
from errata.platform.server import open_channel
from errata.platform.settings import Settings
from errata.replica.base_model import load_base_model
from errata.replica.convert import decode
from errata.replica.entries import EditsCommitted, LaneCompacted
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
        PreconditionError: no edit was committed in the lane, or it is of another method.
        InvalidRequestError: `out` holds adapters already.
        LogUnavailableError: the log cannot be reached.
    """
    with Client(target) as client:
        head_seq = client.head().seq
    seq, data = asyncio.run(_newest(target, lane, head_seq))
    if not seq:
        raise PreconditionError(f"no edit is committed in {lane}; there is nothing to export.")
    artifact = Artifact.from_bytes(data)
    if artifact.metadata.get("method") != "elder":
        raise PreconditionError(
            f"{lane} edits with {artifact.metadata.get('method')}; only ELDER lanes have adapters."
        )
    experts = Experts.of(shape_of(artifact, seq), artifact)
    made = peft.export(load_base_model(settings), experts, out, settings.model.path or "")
    console.print(f"{len(made)} adapters of {lane} as of {seq} are in {out}")


async def _newest(target: str, lane: str, head_seq: int) -> tuple[int, bytes]:
    """Position and artifact of the lane's last fit or compaction; (0, b"") if there was none.

    A reversal changes no experts, so the last one is in force even if its edits are not.
    """
    seq, digest = 0, ""
    try:
        async with asyncio.timeout(_SECONDS), aclosing(Subscriber(target).batches()) as batches:
            async for batch in batches:
                for entry in map(decode, batch.entries):
                    kind = entry.kind
                    if isinstance(kind, EditsCommitted | LaneCompacted) and kind.lane == lane:
                        seq, digest = entry.seq, kind.artifact.digest
                if batch.entries and batch.entries[-1].seq >= head_seq:
                    break
    except TimeoutError as error:
        raise LogUnavailableError(
            f"the edit log does not answer behind {target}.", target=target
        ) from error
    if not seq:
        return 0, b""
    async with open_channel(target) as channel:
        return seq, await RemoteArtifacts(channel).get(digest)
