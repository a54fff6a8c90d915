"""Prometheus metrics of the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from errata.log.canary_entries import CanaryCounts
from errata.platform.metrics import gauge
from errata.writer.canary_tally import CanaryTally
from errata.writer.ledger import EditLedger


class LedgerCollector(Collector):
    """Counts the ledger's edits, and sums what replicas count for canaries, at each scrape."""

    def __init__(self, ledger: EditLedger, tally: CanaryTally) -> None:
        self._ledger = ledger
        self._tally = tally

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        counts, oldest = self._ledger.counts(), self._ledger.oldest_pending()
        waited = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        yield gauge("errata_edits", {k: float(n) for k, n in counts.items()}, ("state", "lane"))
        yield gauge("errata_pending_seconds", {(): max(0.0, waited)})
        names = [canary.name for canary in self._ledger.canaries.open_ones()]
        yield gauge("errata_open_canaries", {(): float(len(names))})
        arms: dict[tuple[str, ...], CanaryCounts] = {
            (name, arm): counts
            for name in names
            if (found := self._tally.of(name)) is not None
            for arm, counts in (("canary", found.canary), ("rest", found.rest))
        }
        requests = {key: float(counts.requests) for key, counts in arms.items()}
        yield gauge("errata_canary_requests", requests, ("canary", "arm"))
        errors = {key: float(counts.errors) for key, counts in arms.items()}
        yield gauge("errata_canary_errors", errors, ("canary", "arm"))
