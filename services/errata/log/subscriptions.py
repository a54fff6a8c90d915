"""How many streams of the log may be open: each holds a page that its reader may not take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from errata.errors import QueueFullError
from errata.platform.settings import LogSettings

_RETRY_SECONDS = 5.0


class Subscriptions:
    """The open streams, by connection.

    A gateway has one connection for all its clients: together they cannot take the streams that
    replicas need.
    """

    def __init__(self, settings: LogSettings) -> None:
        """None is open."""
        self._most = settings.max_subscriptions
        self._most_of_one = settings.max_subscriptions_per_connection
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        """Number of open streams."""
        return self._open.total()

    @contextmanager
    def opened(self, connection: str) -> Iterator[None]:
        """Counts one stream while it is open.

        Args:
            connection: identifies the stream's connection, as `ServicerContext.peer` does.

        Raises:
            QueueFullError: this connection, or all of them, have as many as are allowed.
        """
        for number, most, whose, setting in (
            (self._open[connection], self._most_of_one, "this connection", "_per_connection"),
            (len(self), self._most, "the log service", ""),
        ):
            if number >= most:
                raise QueueFullError(
                    f"{whose} has {number:,} subscriptions; the limit is {most:,}. Close some and "
                    f"try again, or raise log.max_subscriptions{setting}.",
                    retry_after_seconds=_RETRY_SECONDS,
                    limit=most,
                )
        self._open[connection] += 1
        try:
            yield
        finally:
            self._open[connection] -= 1
            if not self._open[connection]:
                del self._open[connection]
