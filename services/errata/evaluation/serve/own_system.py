"""A system that a suite starts for itself, on free ports and in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from errata.launch.box import Box, free_addresses
from errata.launch.progress import Steps


@dataclass(frozen=True, slots=True)
class OwnSystem:
    """What to start.

    Attributes:
        model: folder or hub id; the demo model if empty.
        statistics_text: for the writer, unless the model is the demo's.
        replicas: number of LLM workers.
        retrieval: whether there is a retrieval service, which the workers ask.
        engine: of the workers, by name.
        engine_options: of that engine; if empty, those of the environment.
        secure: whether it uses TLS, demands tokens and writes audit logs.
    """

    model: str = ""
    statistics_text: Path | None = None
    replicas: int = 2
    retrieval: bool = False
    engine: str = "errata"
    engine_options: Mapping[str, str] = field(default_factory=dict)
    secure: bool = False


@contextmanager
def own_system(wanted: OwnSystem, console: Console) -> Iterator[Box]:
    """Runs a system while inside.

    Raises:
        StartupError: the system did not start.
    """
    with tempfile.TemporaryDirectory(prefix="errata-bench-") as folder:
        flags: dict[str, Any] = {
            "data_dir": Path(folder),
            "worker": {
                "num_replicas": wanted.replicas,
                "engine": wanted.engine,
            },
            "model": {"path": wanted.model or None},
            "writer": {"statistics_text": wanted.statistics_text},
        }
        for name, address in free_addresses().items():
            flags[name] = {**flags.get(name, {}), **address}
        if wanted.engine_options:  # else those of the environment
            flags["worker"]["engine_options"] = dict(wanted.engine_options)
        if wanted.retrieval:
            flags["worker"]["retrieval_address"] = flags["retrieval"]["address"]
        with Box(flags, steps=Steps(console), secure=wanted.secure) as box:
            yield box
