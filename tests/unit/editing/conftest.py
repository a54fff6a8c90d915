"""Fixtures of the editing tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import TextResources, make_model

from errata.editing.causal_lm import CausalLM


@pytest.fixture
def llama() -> CausalLM:
    return make_model("llama")


@pytest.fixture
def resources(tmp_path: Path) -> TextResources:
    return TextResources(tmp_path)
