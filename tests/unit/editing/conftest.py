"""Fixtures of the editing tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from tests.unit.editing.tiny_models import TextResources, make_model


@pytest.fixture
def llama() -> CausalLM:
    return make_model("llama")


@pytest.fixture
def sure_llama() -> CausalLM:
    """A model that can be sure of an answer: no change of its blocks makes a random head so."""
    model = make_model("llama")
    with torch.no_grad():
        model.model.get_output_embeddings().weight.mul_(8.0)
    return model


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list whose last number counts the steps of Adam and AdamW."""
    counts: list[int] = []

    def counted(step: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            counts[-1] += 1
            return step(*args)

        return call

    replaced = [(kind, counted(kind.step)) for kind in (torch.optim.Adam, torch.optim.AdamW)]
    for kind, step in replaced:
        monkeypatch.setattr(kind, "step", step)
    return counts


@pytest.fixture
def resources(tmp_path: Path) -> TextResources:
    return TextResources(tmp_path)
