"""What the contract's tests need of an engine: a model in a folder, and engines on it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.limits import EngineLimits
from errata.engine.serving_state import ServingState
from tests.unit.engine.helpers import EDITION, running

LIMITS = EngineLimits(max_rows=4, max_queue=64)


class Harness(Protocol):
    """Runs engines of one kind."""

    folder: Path

    def running(
        self, model: CausalLM, state: ServingState = EDITION, limits: EngineLimits = LIMITS
    ) -> AbstractAsyncContextManager[ServingEngine]:
        """An engine on a model that `load` made."""

    async def close(self) -> None:
        """Ends what outlives single engines."""


def load(harness: Harness) -> CausalLM:
    """A model that the test can change."""
    return CausalLM.load(harness.folder)


class EmbeddedHarness:
    """Runs embedded engines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def running(
        self, model: CausalLM, state: ServingState = EDITION, limits: EngineLimits = LIMITS
    ) -> AbstractAsyncContextManager[ServingEngine]:
        return running(model, state, limits)

    async def close(self) -> None:
        """Nothing outlives an embedded engine."""


def make_model(folder: Path) -> None:
    """Writes a random Llama with the demo model's tokenizer; heads are as wide as vLLM takes."""
    tokenizer = CausalLM.load(demo.model_path()).tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
