"""A system without Ray, whose processes the tests kill, freeze and restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.launch.box import Box, free_addresses

WRITER = "writer"


@pytest.fixture
def box(tmp_path: Path, statistics_cache: Path) -> Iterator[Box]:
    """Redis, log and writer are running; the writer finds its statistics computed."""
    (tmp_path / "statistics").symlink_to(statistics_cache)
    addresses = free_addresses()
    # A writer that wakes up must learn from its append, not from its lease, that it was replaced.
    addresses["writer"]["lease_ttl_seconds"] = "3600"
    box = Box({"data_dir": tmp_path, **addresses})
    try:
        box.start_redis()
        box.start_service("log", box.settings.log.address)
        box.start_service(WRITER, box.settings.writer.address)
        yield box
    finally:
        box.stop()
