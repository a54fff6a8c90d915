"""Counts the rows of a running system's replicas, by their metrics."""

from __future__ import annotations

import http.client
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.system.conftest import System
from tests.waiting import PATIENCE


def num_finished(system: System) -> float:
    """Generations that ended by themselves."""
    return _sum(system, "errata_request_success_total")


def num_running(system: System) -> float:
    """Generations that run or wait."""
    return _sum(system, "errata_requests_running") + _sum(system, "errata_requests_waiting")


def _sum(system: System, name: str) -> float:
    """A metric's sum over both replicas, which have ports side by side."""
    host, _, first = system.worker_metrics.rpartition(":")
    total, num_pages = 0.0, 0
    for port in range(int(first), int(first) + 16):
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=PATIENCE) as page:
                text = page.read().decode()
        except (OSError, http.client.HTTPException):
            continue  # nobody, or somebody who speaks something else
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        if not any(s.name == "errata_requests_running" for s in samples):
            continue  # of another service
        num_pages += 1
        total += sum(s.value for s in samples if s.name == name)
    assert num_pages == 2
    return total
