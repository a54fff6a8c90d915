"""Fixtures that all tests share: the demo model and its facts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from errata import demo
from errata.demo import Corpus
from errata.editing.causal_lm import CausalLM


def pytest_configure() -> None:
    # Tests that run side by side have one core each.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


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
    """Statistics of the demo model for the default lane, computed once for all tests."""
    from errata.editing.method import get_method
    from errata.writer.resources import WriterResources

    folder = tmp_path_factory.mktemp("statistics")
    method = get_method("adaple")
    method.prepare(CausalLM.load(demo.model_path()), method.config(), WriterResources(None, folder))
    return folder
