"""A caller with a valid token who sends what is expensive to refuse, as fast as he can.

    python -m errata.evaluation.serve.attacker TARGET CA_FILE < token

It ends with its input, and prints how its calls ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from errata.evaluation.serve.attack_convert import Attack, attacks

_IN_FLIGHT = 8
_TIMEOUT_SECONDS = 10.0
_MAX_BYTES = 64 * 1024 * 1024


async def _ended(channel: grpc.aio.Channel, attack: Attack, metadata: tuple[str, str]) -> str:
    """How a call ended: the name of its status."""
    options: Any = {"timeout": _TIMEOUT_SECONDS, "metadata": (metadata,)}
    try:
        if not attack.streams:
            call: Any = channel.unary_unary(attack.path)
            await call(attack.request, **options)
            return "OK"
        opened: Any = channel.unary_stream(attack.path)
        stream = opened(attack.request, **options)
        await stream.read()
        stream.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "abandoned"


async def attack(target: str, ca_file: Path, token: str) -> Counter[str]:
    """Attacks until standard input ends; returns how calls ended, by attack and status."""
    ended: Counter[str] = Counter()
    made, metadata = list(attacks().items()), ("authorization", f"Bearer {token}")
    credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
    size = [("grpc.max_send_message_length", _MAX_BYTES)]
    async with grpc.aio.secure_channel(target, credentials, options=size) as channel:

        async def keep(turn: int) -> None:
            while True:
                name, chosen = made[turn % len(made)]
                ended[f"{name}: {await _ended(channel, chosen, metadata)}"] += 1
                turn += 1

        running = [asyncio.create_task(keep(number)) for number in range(_IN_FLIGHT)]
        await asyncio.to_thread(sys.stdin.read)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return ended


def main() -> None:
    """Runs as a process of its own, at the lowest priority: its own work must not count."""
    os.nice(19)
    target, ca_file = sys.argv[1:]
    token = sys.stdin.readline().strip()
    sys.stdout.write(json.dumps(asyncio.run(attack(target, Path(ca_file), token))))


if __name__ == "__main__":
    main()
