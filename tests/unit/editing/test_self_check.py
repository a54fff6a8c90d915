"""Models whose body and head do not compute the same as the whole are refused on loading."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig, MistralConfig

from errata.editing.model.causal_lm import CausalLM
from errata.errors import UnsupportedModelError
from tests.unit.editing.tiny_models import make_tokenizer

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def _view(kind: Any, dtype: torch.dtype = torch.float32, **fields: Any) -> CausalLM:
    tokenizer = make_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = kind(vocab_size=len(tokenizer), **{**_SIZES, **fields})
        return CausalLM(AutoModelForCausalLM.from_config(config).to(dtype), tokenizer)


def test_logits_that_are_scaled_behind_the_head_are_reproduced() -> None:
    model = _view(GraniteConfig, logits_scaling=8.0)
    ids = torch.tensor([[0, 5, 9, 30]])
    own = model.model(ids).logits
    assert torch.equal(model.head(model.body(input_ids=ids).last_hidden_state), own)
    assert not torch.allclose(own, _view(GraniteConfig, logits_scaling=1.0).model(ids).logits)


class _Capped(nn.Module):
    """A causal LM with soft-capped logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config
        self.model = model.model

    def get_output_embeddings(self) -> nn.Module:
        inner: Any = self.inner
        head: nn.Module = inner.get_output_embeddings()
        return head

    def forward(self, **inputs: Any) -> Any:
        output = self.inner(**inputs)
        output.logits = 5.0 * (output.logits / 5.0).tanh()
        return output


def test_a_model_that_caps_logits_in_an_unknown_way_is_refused_with_the_field() -> None:
    tokenizer = make_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), cap_of_logits=5.0, **_SIZES)
    model = AutoModelForCausalLM.from_config(config)
    CausalLM(model, tokenizer)
    expected = r"_Capped computes something.*cap_of_logits=5\.0.*supported are"
    with pytest.raises(UnsupportedModelError, match=expected):
        CausalLM(_Capped(model), tokenizer)


_LONG = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "rope_theta": 10_000.0,
}


def test_positions_that_depend_on_the_longest_row_are_refused_with_the_field() -> None:
    with pytest.raises(UnsupportedModelError, match=r"longrope"):
        _view(LlamaConfig, rope_parameters={**_LONG, "original_max_position_embeddings": 32})
    # Where the model ends before positions change, they never do.
    _view(LlamaConfig, rope_parameters={**_LONG, "original_max_position_embeddings": 64})
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    _view(LlamaConfig, rope_parameters=linear)


class _Mixing(nn.Module):
    """A block that adds the mean of all rows to each."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, child in block.named_children():
            setattr(self, name, child)
        object.__setattr__(self, "_block", block)

    def forward(self, hidden: Tensor, **inputs: Any) -> Any:
        out: Tensor = self._block(hidden, **inputs)
        return out + 0.1 * out.mean(dim=0, keepdim=True)


def test_a_model_whose_rows_affect_each_other_is_refused() -> None:
    tokenizer = make_tokenizer()
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **_SIZES))
    model.model.layers[1] = _Mixing(model.model.layers[1])
    with pytest.raises(UnsupportedModelError, match="in a batch of unequal lengths than alone"):
        CausalLM(model, tokenizer)


def test_a_window_that_the_model_ignores_is_refused_with_the_field() -> None:
    """Its prompts are longer than any check, so the check narrows it."""
    with pytest.raises(UnsupportedModelError, match=r"other tokens.*sliding_window=4096"):
        _view(LlamaConfig, sliding_window=4096)
    assert _view(MistralConfig, sliding_window=4096).model.config.sliding_window == 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_good_models_pass_in_every_dtype(dtype: torch.dtype) -> None:
    _view(LlamaConfig, dtype)
    _view(MistralConfig, dtype, sliding_window=4)


def test_a_model_with_equally_likely_tokens_passes() -> None:
    """No token of a new model with a real vocabulary reaches a thousandth."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(vocab_size=8_000, **{**_SIZES, "initializer_range": 1e-3})
    assert CausalLM(AutoModelForCausalLM.from_config(config), tokenizer).num_embeddings == 8_000


def test_a_model_with_few_positions_passes() -> None:
    assert _view(LlamaConfig, max_position_embeddings=4).max_positions == 4
