"""The endpoint that Prometheus reads, and metrics of collectors."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from errata.errors import StartupError
from errata.platform.addresses import free_port
from errata.platform.metrics import counter, gauge, histogram, metrics_endpoint
from tests.waiting import PATIENCE


class _Own(Collector):
    def collect(self) -> Iterable[Metric]:
        yield gauge("errata_replica_lag_entries", {("r", "worker"): 3}, ("replica", "role"))
        yield counter("errata_prompt_tokens_total", {(): 7})
        yield histogram("errata_e2e_request_latency_seconds", [0.1, 1.0], [2, 3, 1], 4.5)


def _read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as page:
        return str(page.read(), "utf-8")


def test_collectors_are_read_while_the_endpoint_is_up() -> None:
    with metrics_endpoint("127.0.0.1:0", _Own()) as port:
        text = _read(port)
    assert 'errata_replica_lag_entries{replica="r",role="worker"} 3.0' in text
    assert "errata_prompt_tokens_total 7.0" in text
    assert 'errata_e2e_request_latency_seconds_bucket{le="1.0"} 5.0' in text, "cumulative"
    assert "errata_e2e_request_latency_seconds_count 6.0" in text
    with metrics_endpoint("127.0.0.1:0") as port:
        assert "errata_replica_lag_entries" not in _read(port)


def test_replicas_of_one_machine_take_the_next_free_port() -> None:
    first = free_port()
    with metrics_endpoint(f"127.0.0.1:{first}") as one:
        with metrics_endpoint(f"127.0.0.1:{first}", spread=20) as two:
            assert (one, first < two < first + 20) == (first, True)
        with pytest.raises(StartupError, match="Choose another metrics_address"):
            with metrics_endpoint(f"127.0.0.1:{first}"):
                pass


def test_without_an_address_there_is_no_endpoint() -> None:
    with metrics_endpoint("") as port:
        assert port == 0
    with pytest.raises(StartupError, match="give host:port"):
        with metrics_endpoint("9711"):
            pass
