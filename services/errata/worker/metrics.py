"""Prometheus metrics of an engine and of routing decisions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from errata.editing.lane.claims import Claim
from errata.engine.contract import ServingEngine
from errata.engine.statistics import Distribution
from errata.platform.metrics import CLAIM_MARGIN, CLAIMS, DEFERRALS, counter, gauge, histogram


class EngineCollector(Collector):
    """Reads an engine's statistics when Prometheus scrapes."""

    def __init__(self, engine: ServingEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        engine, done = self._engine, self._engine.statistics
        yield gauge("errata_requests_running", {(): engine.num_running})
        yield gauge("errata_requests_waiting", {(): engine.num_waiting})
        yield gauge("errata_kv_cache_usage_ratio", {(): engine.cache_usage})
        yield _times("errata_time_to_first_token_seconds", done.first_token)
        yield _times("errata_inter_token_latency_seconds", done.between_tokens)
        yield _times("errata_e2e_request_latency_seconds", done.whole)
        yield counter("errata_prompt_tokens_total", {(): done.prompt_tokens})
        yield counter("errata_generation_tokens_total", {(): done.generated_tokens})
        finished: dict[tuple[str, ...], float] = {
            (reason,): number for reason, number in dict(done.finished).items()
        }
        yield counter("errata_request_success_total", finished, ("finish_reason",))


def _times(name: str, values: Distribution) -> Metric:
    return histogram(name, values.bounds.tolist(), values.counts.tolist(), values.total)


def note_claims(rows: Sequence[Mapping[str, Claim]]) -> None:
    """Counts the decisions of the lanes on a batch of prompts."""
    for row in rows:
        for lane, claim in row.items():
            (CLAIMS if claim.holds else DEFERRALS).labels(lane).inc()
            margin = claim.score - claim.threshold
            if math.isfinite(margin):  # infinite if there was no edit to compare with
                CLAIM_MARGIN.labels(lane).observe(margin)
