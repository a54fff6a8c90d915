"""A system that a suite starts for itself, on free ports and in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from errata.launch.box import Box, free_addresses
from errata.launch.progress import Steps


@contextmanager
def own_system(
    replicas: int,
    model: str,
    statistics_text: Path | None,
    *,
    retrieval: bool = False,
    console: Console,
) -> Iterator[Box]:
    """Runs a system while inside.

    Args:
        replicas: number of LLM workers.
        model: folder or hub id; the demo model if empty.
        statistics_text: for the writer, unless the model is the demo's.
        retrieval: whether workers ask a retrieval service.
        console: shows progress.

    Raises:
        StartupError: the system did not start.
    """
    with tempfile.TemporaryDirectory(prefix="errata-bench-") as folder:
        flags: dict[str, Any] = {
            "data_dir": Path(folder),
            "worker": {"num_replicas": replicas},
            "model": {"path": model or None},
            "writer": {"statistics_text": statistics_text},
        }
        for name, address in free_addresses().items():
            flags[name] = {**flags.get(name, {}), **address}
        if retrieval:
            flags["worker"]["retrieval_address"] = flags["retrieval"]["address"]
        with Box(flags, steps=Steps(console)) as box:
            yield box
