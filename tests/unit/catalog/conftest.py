from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.catalog.memory import Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path)
    yield made
    made.database.close()
