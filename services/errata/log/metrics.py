"""Prometheus metrics of the log and of the positions that replicas reported."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from errata.log.feed import Feed
from errata.log.positions import ReplicaState, ReplicaTable
from errata.log.store import RedisLog
from errata.log.subscriptions import Subscriptions
from errata.log.trimmer import Trimmer
from errata.platform.metrics import counter, gauge


class LogCollector(Collector):
    """Reads the log's head and the replicas' reports at each scrape."""

    def __init__(
        self,
        log: RedisLog,
        feed: Feed,
        replicas: ReplicaTable,
        subscriptions: Subscriptions,
        trimmer: Trimmer,
    ) -> None:
        self._source, self._feed, self._replicas = log, feed, replicas
        self._subscriptions, self._trimmer = subscriptions, trimmer

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        head_seq, states = self._source.head.seq, self._replicas.live()
        applied: dict[tuple[str, ...], float] = {
            (s.report.replica, s.report.role): s.report.position.seq for s in states
        }
        lag = {key: head_seq - seq for key, seq in applied.items()}
        labels = ("replica", "role")
        yield gauge("errata_log_available", {(): self._feed.available})
        yield gauge("errata_log_head_seq", {(): head_seq})
        yield gauge("errata_replica_applied_seq", applied, labels)
        yield gauge("errata_replica_lag_entries", lag, labels)
        yield gauge("errata_log_subscriptions", {(): len(self._subscriptions)})
        if (memory := self._source.memory) is not None:
            yield gauge("errata_log_redis_used_bytes", {(): memory.used_bytes})
            yield gauge("errata_log_redis_max_bytes", {(): memory.max_bytes})
            yield gauge("errata_log_redis_reserve_bytes", {(): memory.reserve_bytes})
        yield from self._trims()
        yield gauge("errata_digest_disagreements", {(): num_disagreeing(states)})

    def _trims(self) -> Iterable[Metric]:
        archive = self._trimmer.archive
        yield gauge("errata_log_floor_seq", {(): self._trimmer.floor_seq})
        yield gauge("errata_log_archived_entries", {(): archive.position.seq if archive else 0})
        yield gauge("errata_log_archived_bytes", {(): archive.size_bytes if archive else 0})
        yield counter("errata_log_trim_failures_total", {(): self._trimmer.num_failures})


def num_disagreeing(states: Sequence[ReplicaState]) -> int:
    """Counts replicas that contradict the log, or most of their peers at one position (P7).

    Only replicas of one role are peers: a retrieval replica holds less than a worker.
    """
    peers: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for state in states:
        if state.agrees:
            report = state.report
            peers[report.role, report.position.seq][report.state_digest] += 1
    split = sum(digests.total() - max(digests.values()) for digests in peers.values())
    return split + sum(not state.agrees for state in states)
