"""Fixtures that all tests share: the demo model and its facts."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from errata import demo
from errata.demo import Corpus
from errata.editing.model.causal_lm import CausalLM
from tests import jitter, side_by_side

# By default, Hypothesis fails an example after 0.2 s.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    # Shells start background jobs with these signals ignored, and children inherit that; tests send
    # them to end processes.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Parallel tests have one core each; `make test-hostile` tries other numbers.
    own = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
    os.environ.setdefault("OMP_NUM_THREADS", own)  # for processes that tests start
    torch.set_num_threads(int(os.environ.get("ERRATA_TEST_THREADS", own)))
    if number := os.environ.get("ERRATA_TEST_JITTER"):
        jitter.install(int(number), float(os.environ.get("ERRATA_TEST_JITTER_SIZE", jitter.SIZE)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        side_by_side.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> side_by_side.Scheduler | None:
    """Replaces xdist's `--dist loadgroup`."""
    if config.getvalue("dist") == "loadgroup":
        return side_by_side.Scheduler(config, log)
    return None


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return demo.load_corpus()


@pytest.fixture(scope="session")
def shared_model() -> CausalLM:
    """The demo model, for tests that do not change it."""
    return CausalLM.load(demo.model_path())


@pytest.fixture
def model() -> CausalLM:
    """A demo model that the test can change."""
    return CausalLM.load(demo.model_path())


@pytest.fixture(scope="session")
def statistics_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of the demo model for the default lane, computed once for all tests.

    Workers of `pytest -n` share them: the first one computes, and the others wait.
    """
    from errata.editing.adaple.config import AdapleConfig
    from errata.editing.adaple.covariance import gather
    from errata.writer.resources import WriterResources

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "statistics"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        resources = WriterResources(None, folder)
        gather(CausalLM.load(demo.model_path()), AdapleConfig(), resources)
    return folder
