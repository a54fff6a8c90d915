"""Timings of the whole system on this machine: appends, commit to applied, fits, generation.

Every figure is wall clock as seen by a client; generation is a ratio to the same system without
edits, measured before and after in the same run.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console

from errata import demo
from errata.demo import DemoEdit
from errata.editing.edit import Edit
from errata.evaluation.report import circumstances
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.launch.box import Box, free_addresses
from errata.launch.output import print_json
from errata.launch.progress import Steps
from errata.log.entries import EditsRequested, LaneConfigured
from errata.log.request_convert import edit_name
from errata.writer.log_client import LogClient
from errata_client import AsyncClient, EditSpec, EditState

_CONCURRENCY = 16
_MAX_TOKENS = 16
_POLL_SECONDS = 0.002
_TIMEOUT_SECONDS = 300.0
_LANE = "lanes/main"


def run(
    output: Path, *, num_edits: int, num_requests: int, num_appends: int, console: Console
) -> dict[str, Any]:
    """Starts one box, measures, writes JSON, stops the box.

    Args:
        output: JSON file.
        num_edits: distinct edits to fit, in batches as the writer makes them.
        num_requests: generations in each load run, 16 at a time.
        num_appends: single appends to the log.
        console: shows progress.

    Returns:
        The JSON that was written.

    Raises:
        StartupError: the box did not start.
    """
    edits = counterfactual_edits()[:num_edits]
    with tempfile.TemporaryDirectory(prefix="errata-bench-") as folder:
        flags = {"data_dir": Path(folder), **free_addresses()}
        with Box(flags, steps=Steps(console)) as box:
            figures = asyncio.run(_measure(box, edits, num_requests, console))
            # Last, because a new epoch fences the box's own writer.
            console.print(f"{num_appends} appends …")
            figures["append"] = asyncio.run(_appends(box.settings.log.address, num_appends))
    return _reported(figures, output, console)


def run_appends(output: Path, *, num_appends: int, console: Console) -> dict[str, Any]:
    """Starts Redis and the log alone, measures appends, writes JSON, stops both.

    Args:
        output: JSON file.
        num_appends: single appends to the log.
        console: shows progress.

    Returns:
        The JSON that was written.

    Raises:
        StartupError: Redis or the log did not start.
    """
    with tempfile.TemporaryDirectory(prefix="errata-bench-") as folder:
        flags = {"data_dir": Path(folder), **free_addresses()}
        box = Box(flags, steps=Steps(console))
        try:
            box.start_log()
            console.print(f"{num_appends} appends …")
            found = asyncio.run(_appends(box.settings.log.address, num_appends, _any_lane()))
        finally:
            box.stop()
    return _reported({"append": found}, output, console)


def _reported(figures: dict[str, Any], output: Path, console: Console) -> dict[str, Any]:
    report = {**circumstances(), **figures}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_json(console, report)
    return report


async def _measure(
    box: Box, edits: Sequence[EditSpec], num_requests: int, console: Console
) -> dict[str, Any]:
    prompts = [edit.prompt for edit in demo.load_corpus().demo_edits()]
    async with AsyncClient(box.target, timeout=_TIMEOUT_SECONDS) as client:
        console.print("one edit at a time, commit to applied …")
        await generation_rate(client, prompts, _CONCURRENCY)  # warm up
        visible, names = await _visibility(client, _demo_specs())
        await client.revert(names)
        console.print(f"{num_requests} generations without edits …")
        without = [await generation_rate(client, prompts, num_requests)]
        console.print(f"{len(edits)} edits in batches …")
        begun = time.perf_counter()
        accepted = await client.submit_edits(edits)
        settled = await client.wait_edits([edit.name for edit in accepted])
        fit_seconds = time.perf_counter() - begun
        committed = [edit.name for edit in settled if edit.state is EditState.COMMITTED]
        console.print(f"{num_requests} generations with {len(committed)} edits …")
        with_edits = await generation_rate(client, prompts, num_requests)
        await client.revert(committed)
        without.append(await generation_rate(client, prompts, num_requests))
    baseline = sum(without) / len(without)
    return {
        "commit_to_applied_on_every_replica": _quantiles(visible),
        "fit": {
            "num_edits": len(settled),
            "num_committed": len(committed),
            "edits_per_second": len(settled) / fit_seconds,
        },
        "generation": {
            "num_requests": num_requests,
            "concurrency": _CONCURRENCY,
            "requests_per_second_without_edits": without,
            "requests_per_second_with_edits": with_edits,
            "ratio_with_to_without": with_edits / baseline,
        },
    }


def _demo_specs() -> list[EditSpec]:
    def spec(edit: DemoEdit) -> EditSpec:
        return EditSpec(edit.prompt, edit.target, edit.subject)

    return [spec(edit) for edit in demo.load_corpus().demo_edits()]


async def _visibility(
    client: AsyncClient, specs: Sequence[EditSpec]
) -> tuple[list[float], list[str]]:
    """Seconds from the client's notice of a commit until every replica reported it."""
    seconds, names = [], []
    for spec in specs:
        (accepted,) = await client.submit_edits([spec])
        (edit,) = await client.wait_edits([accepted.name])
        begun = time.perf_counter()
        if edit.state is not EditState.COMMITTED:
            continue
        while min(r.applied_seq for r in await client.replicas()) < edit.commit_seq:
            await asyncio.sleep(_POLL_SECONDS)
        seconds.append(time.perf_counter() - begun)
        names.append(edit.name)
    return seconds, names


async def generation_rate(client: AsyncClient, prompts: Sequence[str], num_requests: int) -> float:
    """Requests per second with a fixed number of requests in flight."""
    room = asyncio.Semaphore(_CONCURRENCY)

    async def one(prompt: str) -> None:
        async with room:
            await client.generate(prompt, max_tokens=_MAX_TOKENS)

    begun = time.perf_counter()
    await asyncio.gather(
        *[one(p) for p in itertools.islice(itertools.cycle(prompts), num_requests)]
    )
    return num_requests / (time.perf_counter() - begun)


async def _appends(
    address: str, num_appends: int, lane: LaneConfigured | None = None
) -> dict[str, Any]:
    """Latency of single appends, one after the other; each is synced to disk before its answer.

    Args:
        address: of the log.
        num_appends: requests of one edit each.
        lane: to configure first; None if the log has it.
    """
    seconds = []
    edit = Edit(edit_name(1, 0), "x" * 100, "x" * 10, "x" * 20, ("x" * 100,))
    entry = EditsRequested(_LANE, (edit,), ("",), (True,))
    async with grpc.aio.insecure_channel(address) as channel:
        log = LogClient(channel, "bench")
        await log.acquire_epoch()
        if lane is not None:
            await log.append(str(uuid.uuid4()), lane, "bench")
        for _ in range(num_appends):
            begun = time.perf_counter()
            await log.append(str(uuid.uuid4()), entry, "bench")
            seconds.append(time.perf_counter() - begun)
    return _quantiles(seconds)


def _any_lane() -> LaneConfigured:
    """A lane that no replica opens: the log alone looks at its entries."""
    config = "{}"
    digest = hashlib.sha256(config.encode()).hexdigest()
    return LaneConfigured(_LANE, "recipe", config, digest, base_model_digest=digest)


def _quantiles(seconds: Sequence[float]) -> dict[str, Any]:
    ranked = sorted(seconds)
    return {
        "count": len(ranked),
        "p50_ms": 1e3 * ranked[len(ranked) // 2],
        "p99_ms": 1e3 * ranked[min(int(0.99 * len(ranked)), len(ranked) - 1)],
    }
