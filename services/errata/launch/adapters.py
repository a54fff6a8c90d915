"""`errata adapters`: an ELDER lane's experts as PEFT adapters."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from errata.artifacts.remote import RemoteArtifacts
from errata.editing.artifact import Artifact
from errata.editing.elder import peft
from errata.editing.elder.experts import Experts
from errata.editing.elder.state import shape_of
from errata.errors import PreconditionError
from errata.platform.server import open_channel
from errata.platform.settings import Settings
from errata.replica.base_model import load_base_model
from errata_client import Client, Edit, EditState


def export_adapters(
    settings: Settings, target: str, lane: str, out: Path, console: Console
) -> None:
    """Writes what the lane's newest commit holds; the lane goes on.

    Args:
        settings: say where the log is, and the base model.
        target: `host:port` of the gateway.
        lane: such as `lanes/main`.
        out: gets a folder for each expert.
        console: is told where they are.

    Raises:
        PreconditionError: no edit was committed in the lane, or it is of another method.
        InvalidRequestError: `out` holds adapters already.
        UnavailableError: the log cannot be reached.
    """
    with Client(target) as client:
        committed = [e for e in client.list_edits() if e.lane == lane and _is_committed(e)]
    if not committed:
        raise PreconditionError(f"no edit is committed in {lane}; there is nothing to export.")
    newest = max(committed, key=lambda edit: edit.commit_seq)
    data = asyncio.run(_fetch(settings.log.address, newest.artifact_digest))
    artifact = Artifact.from_bytes(data)
    if artifact.metadata.get("method") != "elder":
        raise PreconditionError(
            f"{lane} edits with {artifact.metadata.get('method')}; only ELDER lanes have adapters."
        )
    experts = Experts.of(shape_of(artifact, newest.commit_seq), artifact)
    made = peft.export(load_base_model(settings), experts, out, settings.model.path or "")
    console.print(f"{len(made)} adapters of {lane} as of {newest.commit_seq} are in {out}")


def _is_committed(edit: Edit) -> bool:
    return edit.state is EditState.COMMITTED


async def _fetch(address: str, digest: str) -> bytes:
    async with open_channel(address) as channel:
        return await RemoteArtifacts(channel).get(digest)
