"""The cost of metrics and traces: three systems side by side, measured in turn.

The first has neither, the second is scraped every second, the third also traces a tenth of its
calls. Each round sends all three the same requests, so that other load on the machine affects them
alike.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from errata import demo
from errata.evaluation.observability.service import span_collector
from errata.evaluation.report import circumstances, write
from errata.evaluation.system_bench import generation_rate
from errata.launch.box import Box, free_addresses
from errata.platform.addresses import free_port
from errata_client import AsyncClient

_SCRAPE_SECONDS = 1.0
_SAMPLE_RATIO = 0.1
_NUM_WORKERS = 2
_VARIANTS = ("plain", "metrics", "traces")


def run(out: Path, *, rounds: int, num_requests: int, console: Console) -> dict[str, Any]:
    """Starts the systems, measures them in turn, writes `result.json`.

    Args:
        out: folder.
        rounds: each one measures every system.
        num_requests: of a round, 16 at a time.
        console: shows progress.

    Returns:
        The JSON that was written: requests per second, and ratios to the system without either.
    """
    with ExitStack() as stack:
        endpoint, spans = stack.enter_context(span_collector())
        boxes: dict[str, Box] = {}
        for name in _VARIANTS:
            console.print(f"starting the system with {name} …")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="errata-bench-")))
            flags = _flags(name, folder, endpoint)
            boxes[name] = stack.enter_context(Box(flags))
            if name != "plain":
                stack.enter_context(_scraped(flags))
        rates = asyncio.run(_ask(boxes, rounds, num_requests, console))
        num_spans = spans.total
    middle = {name: statistics.median(values) for name, values in rates.items()}
    found = {
        **circumstances(),
        "suite": "observability",
        "requests_per_second": rates,
        "ratio_plain_to_metrics": middle["plain"] / middle["metrics"],
        "ratio_plain_to_traces": middle["plain"] / middle["traces"],
        "num_spans": num_spans,
        "sample_ratio": _SAMPLE_RATIO,
        "scrape_seconds": _SCRAPE_SECONDS,
    }
    console.print(f"written to {write(found, out)}")
    return found


def _flags(name: str, folder: Path, endpoint: str) -> dict[str, Any]:
    flags: dict[str, Any] = {"data_dir": folder, **free_addresses()}
    flags["worker"] = {"num_replicas": _NUM_WORKERS}
    if name != "plain":
        for service in ("log", "writer", "gateway", "worker"):
            address = {"metrics_address": f"127.0.0.1:{free_port()}"}
            flags[service] = {**flags.get(service, {}), **address}
    if name == "traces":
        flags["tracing"] = {"endpoint": endpoint, "sample_ratio": _SAMPLE_RATIO}
    return flags


async def _ask(
    boxes: Mapping[str, Box], rounds: int, num_requests: int, console: Console
) -> dict[str, list[float]]:
    prompts = [edit.prompt for edit in demo.load_corpus().demo_edits()]
    rates: dict[str, list[float]] = {name: [] for name in boxes}
    for number in range(rounds + 1):
        console.print(f"round {number} of {rounds} …")
        for name, box in boxes.items():
            async with AsyncClient(box.target) as client:
                rate = await generation_rate(client, prompts, num_requests)
            if number:  # the first one warms up
                rates[name].append(rate)
    return rates


@contextmanager
def _scraped(flags: Mapping[str, Any]) -> Iterator[None]:
    """Reads every endpoint of a system once a second while inside."""
    addresses = [flags[name]["metrics_address"] for name in ("log", "writer", "gateway")]
    host, _, first = flags["worker"]["metrics_address"].rpartition(":")
    addresses += [f"{host}:{int(first) + n}" for n in range(_NUM_WORKERS)]
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(_SCRAPE_SECONDS):
            for address in addresses:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
                    page.read()

    with ThreadPoolExecutor(1) as pool:
        scraping = pool.submit(scrape)
        try:
            yield
        finally:
            ended.set()
        scraping.result()  # raises if an endpoint was missing, which would make metrics look cheap
