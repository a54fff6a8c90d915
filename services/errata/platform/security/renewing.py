"""Channels that follow the certificate's files: a renewed one is presented without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from errata.platform.security.transport import CertificateFiles
from errata.platform.settings.security import SecuritySettings

_LOOK_SECONDS = 5.0
# Calls of the former channel may end; streams of ours are opened again by their readers.
_GRACE_SECONDS = 300.0

_log = structlog.get_logger(__name__)


class Renewal:
    """Says when a channel must be opened again, because its certificate has changed."""

    def __init__(self, settings: SecuritySettings) -> None:
        """Reads the files, if there are any.

        Raises:
            StartupError: a file cannot be used.
        """
        self._files = CertificateFiles(settings) if settings.has_tls else None
        self._looked = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether a file has changed since the last question; looks every few seconds."""
        now = time.monotonic()
        if self._files is None or now < self._looked + _LOOK_SECONDS:
            return False
        self._looked = now
        try:
            return self._files.refresh()
        except OSError as error:  # while they are replaced
            _log.warning("a certificate cannot be read; the former one stays", why=str(error))
            return False


class RenewingChannel(grpc.aio.Channel):
    """A channel that is opened again when its certificate changes; stubs use it as any other."""

    def __init__(self, dial: Callable[[], grpc.aio.Channel], renewal: Renewal) -> None:
        """Opens the channel.

        Args:
            dial: opens one with the files' present content.
            renewal: says when.
        """
        self._dial = dial
        self._renewal = renewal
        self._channel = dial()
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel to use for the next call."""
        if self._renewal.is_due:
            former, self._channel = self._channel, self._dial()
            task = asyncio.get_running_loop().create_task(former.close(_GRACE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._channel

    async def __aenter__(self) -> RenewingChannel:
        """Enters the scope at whose end the channel is closed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the channel."""
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel, and those that it replaced."""
        for task in self._closing:
            task.cancel()
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the current connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns once the current connection has another state."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns once the current connection is ready."""
        await self._channel.channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """Calls with one request and one response."""
        return _Calls(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """Calls with one request and many responses."""
        return _Calls(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """Calls with many requests and one response."""
        return _Calls(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """Calls with many requests and many responses."""
        return _Calls(self, "stream_stream", arguments, options)


class _Calls:
    """A method of a stub, on whichever channel is the current one."""

    def __init__(
        self, channel: RenewingChannel, kind: str, arguments: Any, options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._made = (kind, arguments, options)
        self._of: grpc.aio.Channel | None = None
        self._call: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        current = self._channel.current()
        if current is not self._of:
            kind, made_of, made_with = self._made
            self._of, self._call = current, getattr(current, kind)(*made_of, **made_with)
        return self._call(*arguments, **options)
