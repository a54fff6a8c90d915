"""Prometheus metrics of the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from errata.platform.metrics import gauge
from errata.writer.ledger import EditLedger


class LedgerCollector(Collector):
    """Counts the ledger's edits at each scrape."""

    def __init__(self, ledger: EditLedger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        counts, oldest = self._ledger.counts(), self._ledger.oldest_pending()
        waited = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        yield gauge("errata_edits", {k: float(n) for k, n in counts.items()}, ("state", "lane"))
        yield gauge("errata_pending_seconds", {(): max(0.0, waited)})
