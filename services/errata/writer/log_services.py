"""All log services that a target names: each knows only the replicas that report to it."""

from __future__ import annotations

import asyncio
import socket

import grpc

from errata.errors import ErrataError, LogUnavailableError
from errata.platform.addresses import host_and_port
from errata.platform.server import open_channel
from errata.writer.canary_tally import CanaryReport
from errata.writer.log_client import LogClient

_DNS = "dns:///"


class LogServices:
    """Asks each of them over a connection of its own."""

    def __init__(self, target: str) -> None:
        """Connects to nothing yet; `target` is what `open_channel` takes."""
        self._target = target
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def canary_reports(self) -> list[CanaryReport]:
        """What the replicas of all of them reported.

        Raises:
            LogUnavailableError: none of them answers.
        """
        clients = await self._clients()
        answers = await asyncio.gather(
            *(client.canary_reports() for client in clients), return_exceptions=True
        )
        found = [answer for answer in answers if not isinstance(answer, BaseException)]
        for answer in answers:
            if isinstance(answer, BaseException) and not (
                found and isinstance(answer, ErrataError)
            ):
                raise answer
        return [report for answer in found for report in answer]

    async def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _clients(self) -> list[LogClient]:
        addresses = await addresses_of(self._target)
        for gone in self._channels.keys() - set(addresses):
            await self._channels.pop(gone).close()
        for address in addresses:
            if address not in self._channels:
                named = self._target.removeprefix(_DNS).partition(",")[0]
                self._channels[address] = open_channel(address, authority=named)
        return [LogClient(self._channels[address], "") for address in addresses]


async def addresses_of(target: str) -> list[str]:
    """The addresses that a target names; of a name, those that it resolves to now.

    Raises:
        LogUnavailableError: the name does not resolve.
    """
    if not target.startswith(_DNS):
        return target.split(",")
    host, port = host_and_port(target.removeprefix(_DNS))
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LogUnavailableError(
            f"{host}, of the log's target, does not resolve: {error}."
        ) from error
    hosts = sorted({str(info[4][0]) for info in found})
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]
