"""Every metric that Errata exports, and the endpoint where Prometheus reads them.

Serving metrics have the same meaning as vLLM's, under our prefix. A process is one instance: the
scraped address distinguishes replicas. What a process holds anyway (a ledger, an engine's
statistics) is read by that service's `Collector` at each scrape and not stored twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.metrics_server import MetricsServer
from errata.platform.security.active import active

_log = structlog.get_logger(__name__)

HELP: Mapping[str, str] = {
    "errata_requests_running": "Generations that have a row in the running batch.",
    "errata_requests_waiting": "Requests that wait for a row.",
    "errata_kv_cache_usage_ratio": "Share of the cache entries of all rows that are in use.",
    "errata_time_to_first_token_seconds": "From a generation's arrival to its first token.",
    "errata_inter_token_latency_seconds": "Between two tokens of one generation.",
    "errata_e2e_request_latency_seconds": "From a generation's arrival to its end.",
    "errata_prompt_tokens_total": "Prompt tokens of the generations that ended.",
    "errata_generation_tokens_total": "Generated tokens of the generations that ended.",
    "errata_request_success_total": "Generations that ended, by finish_reason.",
    "errata_claims_total": "Prompts that an edit claimed, by lane.",
    "errata_deferrals_total": "Prompts that no edit of a lane claimed, by lane.",
    "errata_claim_margin": "Best edit's score minus its threshold, by lane.",
    "errata_index_edits": "Edits that can claim prompts in this replica, by lane.",
    "errata_route_seconds": "Duration of the retrieval service's decisions on one batch.",
    "errata_applied_seq": "Log position of this replica, by role.",
    "errata_known_head_seq": "Latest head of the log that this replica knows, by role.",
    "errata_commit_to_applied_seconds": "From a commit's timestamp in the log to its effect here.",
    "errata_replica_healthy": "1 while this replica can answer, else 0, by role.",
    "errata_log_available": "1 while the log can be read and appended to, else 0.",
    "errata_log_head_seq": "Last acknowledged position of the log.",
    "errata_log_append_seconds": "Duration of an append, until it is witnessed and durable.",
    "errata_log_subscriptions": "Open streams of the log.",
    "errata_log_floor_seq": "First entry in the log's Redis; earlier ones are in the archive.",
    "errata_log_archived_entries": "Entries in the archive.",
    "errata_log_archived_bytes": "Bytes of the archive's segments.",
    "errata_log_trim_failures_total": "Trims of the log that failed.",
    "errata_log_redis_used_bytes": "Memory of the log's Redis that counts towards its maxmemory.",
    "errata_log_redis_max_bytes": "maxmemory of the log's Redis; 0 without a limit.",
    "errata_log_redis_reserve_bytes": "Part of maxmemory that requested edits cannot use.",
    "errata_replica_applied_seq": "Position that a replica reported, by replica and role.",
    "errata_replica_lag_entries": "Entries that a replica is behind, by replica and role.",
    "errata_digest_disagreements": "Replicas that contradict the log, or a peer at the same seq.",
    "errata_edits": "Edits by state and lane.",
    "errata_pending_seconds": "Age of the oldest edit that is neither committed nor rejected.",
    "errata_open_canaries": "Canaries that are neither promoted nor rolled back.",
    "errata_canary_requests": "Requests that read an open canary's namespace, by canary and arm: "
    "those in the canary, and the rest.",
    "errata_canary_errors": "Those of them that failed for no fault of their own.",
    "errata_fit_seconds": "Duration of one batch's fit, checks and attempts included, by lane.",
    "errata_webhook_deliveries_total": "Deliveries by target and outcome: delivered, failed, or an "
    "event that was given up.",
    "errata_webhook_failures": "Attempts that failed since the last delivery, by target.",
    "errata_artifact_bytes_total": "Bytes of committed artifacts, by lane.",
    "errata_info": "1, labelled with a process's service and version.",
    "errata_replicas_wanted": "Minimum number of replicas in the workers' settings.",
    "errata_grpc_requests_total": "Calls that ended, by method and code.",
    "errata_grpc_seconds": "Duration of calls, streams to their end, by method.",
    "errata_http_requests_total": "HTTP requests that ended, by route and status.",
    "errata_http_seconds": "Duration of HTTP requests, streams to their end, by route.",
}
"""Help texts by metric name, as scraped; docs/metrics.md lists the same metrics."""

LATENCY_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds."""
_FIT_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1_800.0)
_MARGINS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0)
_MARGIN_BUCKETS = (*(-margin for margin in reversed(_MARGINS)), 0.0, *_MARGINS)


def _counter(name: str, labels: Sequence[str]) -> Counter:
    return Counter(name.removesuffix("_total"), HELP[name], labels)


def _gauge(name: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(name, HELP[name], labels)


def _histogram(name: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
    return Histogram(name, HELP[name], labels, buckets=buckets)


CLAIMS = _counter("errata_claims_total", ["lane"])
DEFERRALS = _counter("errata_deferrals_total", ["lane"])
CLAIM_MARGIN = _histogram("errata_claim_margin", _MARGIN_BUCKETS, ["lane"])
INDEX_EDITS = _gauge("errata_index_edits", ["lane"])
ROUTE_SECONDS = _histogram("errata_route_seconds", LATENCY_BUCKETS)
# With a label, so that processes that are not replicas export no value.
APPLIED_SEQ = _gauge("errata_applied_seq", ["role"])
KNOWN_HEAD_SEQ = _gauge("errata_known_head_seq", ["role"])
COMMIT_TO_APPLIED_SECONDS = _histogram("errata_commit_to_applied_seconds", LATENCY_BUCKETS)
REPLICA_HEALTHY = _gauge("errata_replica_healthy", ["role"])
APPEND_SECONDS = _histogram("errata_log_append_seconds", LATENCY_BUCKETS)
FIT_SECONDS = _histogram("errata_fit_seconds", _FIT_BUCKETS, ["lane"])
ARTIFACT_BYTES = _counter("errata_artifact_bytes_total", ["lane"])
WEBHOOK_DELIVERIES = _counter("errata_webhook_deliveries_total", ["target", "outcome"])
WEBHOOK_FAILURES = _gauge("errata_webhook_failures", ["target"])
INFO = _gauge("errata_info", ["service", "version"])
REPLICAS_WANTED = _gauge("errata_replicas_wanted", ["role"])
GRPC_REQUESTS = _counter("errata_grpc_requests_total", ["method", "code"])
GRPC_SECONDS = _histogram("errata_grpc_seconds", LATENCY_BUCKETS, ["method"])
HTTP_REQUESTS = _counter("errata_http_requests_total", ["route", "status"])
HTTP_SECONDS = _histogram("errata_http_seconds", LATENCY_BUCKETS, ["route"])


def note_service(service: str) -> None:
    """Exports this process's service and version."""
    INFO.labels(service, version("errata")).set(1)


def note_index(num_edits: Mapping[str, int]) -> None:
    """Sets how many edits can claim prompts here, by lane."""
    for lane, number in num_edits.items():
        INDEX_EDITS.labels(lane).set(number)


def gauge(name: str, values: Mapping[tuple[str, ...], float], labels: Sequence[str] = ()) -> Metric:
    """A gauge for a collector: a value for each tuple of label values."""
    family = GaugeMetricFamily(name, HELP[name], labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def counter(
    name: str, values: Mapping[tuple[str, ...], float], labels: Sequence[str] = ()
) -> Metric:
    """A counter for a collector: a value for each tuple of label values."""
    family = CounterMetricFamily(name.removesuffix("_total"), HELP[name], labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(name: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> Metric:
    """A histogram for a collector.

    Args:
        name: a key of `HELP`.
        bounds: upper bounds of all buckets but the last, ascending.
        counts: values in each bucket, the unbounded one last.
        total: sum of all values.
    """
    family = HistogramMetricFamily(name, HELP[name])
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    running, buckets = 0, []
    for bound, count in zip(names, counts, strict=True):
        running += count
        buckets.append((bound, running))
    family.add_metric([], buckets, total)
    return family


@contextmanager
def metrics_endpoint(address: str, *collectors: Collector, spread: int = 1) -> Iterator[int]:
    """Serves the process's metrics over HTTP, or HTTPS, while inside.

    Args:
        address: host:port; no endpoint if empty.
        collectors: read at each scrape, in addition to the metrics above.
        spread: how many consecutive ports to try, from the given one on: replicas of one machine
            share a setting.

    Yields:
        The port; 0 without an endpoint.

    Raises:
        StartupError: the address is not host:port, or all its ports are in use; or as
            `MetricsServer`.
    """
    if not address:
        yield 0
        return
    host, first = host_and_port(address)
    for port in range(first, first + spread):
        try:
            server = MetricsServer(host, port, active().settings)
            break
        except OSError as error:
            failure = error
    else:
        raise StartupError(
            f"no metrics endpoint at {address}: {failure}. Choose another metrics_address, or "
            "leave it empty.",
            address=address,
        )
    _log.info("metrics", port=server.port)
    for collector in collectors:
        REGISTRY.register(collector)
    try:
        yield server.port
    finally:
        for collector in collectors:
            REGISTRY.unregister(collector)
        server.close()
