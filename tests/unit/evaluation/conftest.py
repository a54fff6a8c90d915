"""Fixtures of the evaluation tests; the tiny models are those of the editing tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "editing"))
sys.path.insert(0, str(Path(__file__).parent))

from tiny_models import make_model

from errata.editing.model.causal_lm import CausalLM


@pytest.fixture
def llama() -> CausalLM:
    return make_model("llama")
