"""Fixtures that all tests share: the demo model and its facts."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import torch

from errata import demo
from errata.demo import Corpus
from errata.editing.causal_lm import CausalLM
from tests import jitter


def pytest_configure() -> None:
    # Tests that run side by side have one core each; `make test-hostile` tries other numbers.
    own = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
    os.environ.setdefault("OMP_NUM_THREADS", own)  # of the processes that tests start
    torch.set_num_threads(int(os.environ.get("ERRATA_TEST_THREADS", own)))
    if number := os.environ.get("ERRATA_TEST_JITTER"):
        jitter.install(int(number), float(os.environ.get("ERRATA_TEST_JITTER_SIZE", jitter.SIZE)))


# Seconds that long groups take on two quiet cores; whatever is missing here is short. They go
# first, so that the workers of `pytest -n` end together. A file is a group by itself; what shares
# the running system is one, too, whatever the file.
_SECONDS = {
    "system": 150,
    "tests/faults/test_writer_faults.py": 90,
    "tests/faults/test_partition.py": 60,
    "tests/integration/system/test_compose.py": 60,
    "tests/load/test_load.py": 50,
    "tests/integration/system/test_demo.py": 40,
    "tests/integration/retrieval/test_compaction.py": 30,
    "tests/integration/log/test_log_damage.py": 30,
    "tests/unit/editing/test_lemoe_lane.py": 30,
    "tests/unit/evaluation/test_mixture_suites.py": 30,
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Lets tests that share something expensive run on one worker, the longest first."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: -_SECONDS.get(_group(item), 0))


def _group(item: pytest.Item) -> str:
    if "system" in getattr(item, "fixturenames", ()):
        return "system"
    return item.location[0]


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return demo.load_corpus()


@pytest.fixture(scope="session")
def shared_model() -> CausalLM:
    """The demo model, for tests that do not change it."""
    return CausalLM.load(demo.model_path())


@pytest.fixture
def model() -> CausalLM:
    """A demo model of the test's own."""
    return CausalLM.load(demo.model_path())


@pytest.fixture(scope="session")
def statistics_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of the demo model for the default lane, computed once for all tests.

    Workers of `pytest -n` share them: whoever comes second waits for whoever is first.
    """
    from errata.editing.method import get_method
    from errata.writer.resources import WriterResources

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "statistics"
    folder.mkdir(exist_ok=True)
    method = get_method("adaple")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        resources = WriterResources(None, folder)
        method.prepare(CausalLM.load(demo.model_path()), method.config(), resources)
    return folder
