"""Counts answers by the edits that shaped them, and reports the counts to the catalog."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import Any

import grpc
import structlog

from errata.gateway.shaped_convert import report, report_path
from errata.platform.tracing import outgoing

REPORT_SECONDS = 10.0
HOUR_SECONDS = 3_600
_TIMEOUT_SECONDS = 5.0
_MAX_COUNTS = 50_000  # edits by hour that are not reported yet

_log = structlog.get_logger(__name__)


class ShapedAnswers:
    """What was counted since the report before, and the report that is on its way.

    A report that got no answer is sent again under its number, so that the catalog counts it once.
    """

    def __init__(self) -> None:
        """Has counted nothing."""
        self._reporter = uuid.uuid4().hex
        self._number = 1
        self._counts = Counter[tuple[str, int]]()
        self._sent: dict[tuple[str, int], int] = {}
        self._is_full = False

    def note(self, response: Any) -> None:
        """Counts a complete answer, or the last message of a streamed one."""
        hour = int(time.time() // HOUR_SECONDS)
        for edit in response.provenance.edits:
            if (edit, hour) in self._counts or len(self._counts) < _MAX_COUNTS:
                self._counts[edit, hour] += 1
            elif not self._is_full:
                self._is_full = True
                _log.warning("answers are not counted while the catalog does not answer")

    async def run(self, catalog: grpc.aio.Channel) -> None:
        """Reports every few seconds until it is cancelled; a last time then."""
        try:
            while True:
                await asyncio.sleep(REPORT_SECONDS)
                await self.report(catalog)
        finally:
            await self.report(catalog)

    async def report(self, catalog: grpc.aio.Channel) -> bool:
        """Sends what was counted; returns whether nothing is left to send."""
        if not self._sent:
            self._sent, self._counts = dict(self._counts), Counter()
            self._is_full = False
        if not self._sent:
            return True
        call: Any = catalog.unary_unary(report_path())
        request = report(self._reporter, self._number, self._sent)
        try:
            await call(request, timeout=_TIMEOUT_SECONDS, metadata=outgoing())
        except grpc.aio.AioRpcError as error:
            _log.debug("the catalog took no counts", code=error.code().name)
            return False
        self._sent, self._number = {}, self._number + 1
        return not self._counts
