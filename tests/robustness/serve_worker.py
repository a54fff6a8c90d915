"""A worker without Ray: the product's replica, asked over TCP in JSON, a line each way."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from errata.artifacts.remote import RemoteArtifacts
from errata.errors import ErrataError
from errata.platform.failpoints import configure_failpoints
from errata.platform.server import open_channel
from errata.platform.settings import load_settings
from errata.platform.telemetry import configure_logging
from errata.replica.base_model import load_base_model
from errata.worker.admission import GenerationInput
from errata.worker.replica import Replica

ADDRESS = "ROBUSTNESS_WORKER_ADDRESS"
NAME = "ROBUSTNESS_WORKER_NAME"
_MAX_TOKENS = 3


def main() -> None:
    """Serves until killed; listens once it has applied the log."""
    asyncio.run(_serve())


async def _serve() -> None:
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format, "worker")
    configure_failpoints(settings.failpoints)
    async with open_channel(settings.log.address) as channel:
        model = await asyncio.to_thread(load_base_model, settings)
        source = RemoteArtifacts(channel)
        address = settings.log.address
        replica = Replica(os.environ[NAME], model, source, address, settings.worker)
        await replica.start()
        host, port = os.environ[ADDRESS].split(":")

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                answer = await _answer(replica, json.loads(line))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(connected, host, int(port)) as server:
            await server.serve_forever()


async def _answer(replica: Replica, asked: dict[str, Any]) -> dict[str, Any]:
    text, request = (
        "",
        GenerationInput(
            prompt=asked["prompt"], min_seq=asked["min_seq"] or None, max_tokens=_MAX_TOKENS
        ),
    )
    try:
        replica.check_health()
        pieces = replica.generate(request, streaming=False, timeout_seconds=asked["seconds"])
        async for piece in pieces:
            text += piece.text
            version, edits = piece.version, piece.edits
    except ErrataError as error:
        return {"reason": error.reason, "message": error.message}
    return {
        "seq": version.seq,
        "chain": version.chain_digest.hex(),
        "state": version.state_digest,
        "num_edits": version.num_edits,
        "edits": edits,
        "text": text,
    }
