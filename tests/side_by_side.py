"""Defines which tests stay together under `pytest -n`, and which run first.

xdist's own marks for this have no effect with pytest 9.2: it looks for a name that items no longer
have.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SYSTEM, CONSOLE = "system", "console"
_SYSTEM_FOLDER = "tests/integration/system/"
_CONSOLE_FOLDER = "tests/integration/console/"
# These start their own systems.
_OF_THEIR_OWN = (
    "test_compose.py",
    "test_demo.py",
    "test_http_chat.py",
    "test_imported_model.py",
    "test_tutorial.py",
)

# Seconds that long groups take on two quiet cores; other groups are short. Long groups run first,
# so that the workers end together.
SECONDS = {
    SYSTEM: 200,
    CONSOLE: 120,
    "tests/faults/test_writer_faults.py": 90,
    "tests/robustness/short/test_short_form.py": 90,
    "tests/faults/test_partition.py": 60,
    "tests/integration/system/test_compose.py": 60,
    "tests/load/test_load.py": 50,
    "tests/integration/system/test_demo.py": 40,
    "tests/integration/system/test_http_chat.py": 40,
    "tests/integration/system/test_tutorial.py": 40,
    "tests/unit/docs_site/test_notebooks.py": 40,
    "tests/integration/system/test_imported_model.py": 30,
    "tests/unit/editing/test_lemoe_lane.py": 30,
    "tests/unit/evaluation/test_mixture_suites.py": 30,
    "tests/integration/retrieval/test_compaction.py": 20,
    "tests/unit/editing/test_elder_lane.py": 20,
    "tests/unit/editing/test_recipe_training.py": 20,
    "tests/unit/launch/test_model_import.py": 20,
    "tests/unit/writer/test_fitting.py": 20,
    "tests/unit/evaluation/test_serve_bench.py": 20,
    "tests/unit/engine/test_engine.py": 15,
    "tests/unit/docs_site/test_site.py": 15,
    "tests/unit/demo/test_model.py": 15,
}


def group_of(nodeid: str) -> str:
    """The test's group: its file, or one name for all tests that share a running system."""
    file = nodeid.partition("::")[0]
    if file.startswith(_CONSOLE_FOLDER):
        return CONSOLE
    name = file.removeprefix(_SYSTEM_FOLDER)
    return file if name == file or name in _OF_THEIR_OWN else SYSTEM


def longest_first(items: list[pytest.Item]) -> None:
    """Sorts items by the duration of their groups; items of one group keep their order."""
    items.sort(key=lambda item: -SECONDS.get(group_of(item.nodeid), 0))


class Scheduler(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Assigns whole groups to workers."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
