"""Fixtures of the editing tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.editing.model.causal_lm import CausalLM
from tests.unit.editing.tiny_models import TextResources, make_model


@pytest.fixture
def llama() -> CausalLM:
    return make_model("llama")


@pytest.fixture
def resources(tmp_path: Path) -> TextResources:
    return TextResources(tmp_path)
