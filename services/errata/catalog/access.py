"""The database for coroutines: one thread changes it, others read it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from errata.catalog.database import Database, limited
from errata.platform.deadlines import before_deadline

T = TypeVar("T")
_DISK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Access:
    """Runs queries and changes on threads, so that the event loop stays free to follow.

    Attributes:
        database: used inside `change` and `keep` alone.
    """

    def __init__(self, file: Path, num_readers: int) -> None:
        """Opens the database.

        Raises:
            StartupError: as `Database`.
        """
        self.database = Database(file)
        self._changing = ThreadPoolExecutor(1, "errata-catalog")
        self._reading = ThreadPoolExecutor(num_readers, "errata-catalog-read")
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []

    async def close(self) -> None:
        """Waits for what runs, and closes the database."""
        for threads in (self._reading, self._changing):
            await asyncio.to_thread(threads.shutdown)
        for connection in self._readers:
            connection.close()
        self.database.close()

    async def change(self, act: Callable[[], T]) -> T:
        """Runs what changes the database, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._changing, act)

    async def keep(self, act: Callable[[], T]) -> T:
        """As `change`, but waits while the disk is full: for what must not be lost."""
        while True:
            try:
                return await self.change(act)
            except sqlite3.OperationalError as error:
                _log.error("the database cannot be written; trying again", reason=str(error))
                await asyncio.sleep(_DISK_SECONDS)

    async def read(
        self, query: Callable[[sqlite3.Connection], T], timeout_seconds: float | None = None
    ) -> T:
        """Runs a query in a transaction of its own, so that all of it is of one position.

        Args:
            query: reads over the connection that it gets.
            timeout_seconds: time to the caller's deadline; no limit if None.

        Raises:
            DeadlineExceededError: it takes too long.
        """
        deadline = None
        if timeout_seconds is not None:
            deadline = time.monotonic() + before_deadline(timeout_seconds)

        def run() -> T:
            connection = self._connection()
            with limited(connection, deadline):
                connection.execute("BEGIN")
                try:
                    return query(connection)
                finally:
                    connection.execute("COMMIT")

        return await asyncio.get_running_loop().run_in_executor(self._reading, run)

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self.database.reader()
            self._readers.append(self._local.connection)
        found: sqlite3.Connection = self._local.connection
        return found
