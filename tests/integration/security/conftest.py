"""A whole system with TLS, identities and tokens, as `errata up --secure` starts it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.launch.box import Box, free_addresses
from errata.launch.certs import DevelopmentCa
from errata_client import Client
from tests.waiting import PATIENCE


@pytest.fixture(scope="package")
def box(tmp_path_factory: pytest.TempPathFactory, statistics_cache: Path) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("secure")
    (folder / "statistics").symlink_to(statistics_cache)
    flags = {"data_dir": folder, **free_addresses()}
    flags["security"] = {"leeway_seconds": 0.0}
    flags["worker"] = {"num_replicas": 1, "retrieval_address": flags["retrieval"]["address"]}
    with Box(flags, secure=True) as box:
        yield box


@pytest.fixture(scope="package")
def ca(box: Box) -> DevelopmentCa:
    return DevelopmentCa(box.settings.data_dir / "security")


@pytest.fixture
def operator(box: Box) -> Iterator[Client]:
    with Client(box.target, timeout=PATIENCE, credentials=box.credentials) as client:
        yield client


def audit_lines(box: Box, service: str) -> list[dict[str, object]]:
    """What a service has audited."""
    text = (box.settings.data_dir / "audit" / f"{service}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
