"""Tokenizers that are not quite the model's, and what a model folder says of its texts' ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, GenerationConfig

from errata.editing.adaple.config import AdapleConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.loading import unread_generation_config
from errata.engine import offline
from errata.errors import UnsupportedModelError
from tests.unit.editing.lanes import adaple_bench
from tests.unit.editing.tiny_models import TextResources

CONFIG = AdapleConfig(layers=(1, 2), num_prefixes=1, prefix_tokens=3, steps=3, gain=20.0)


@pytest.fixture
def padded(tmp_path: Path, llama: CausalLM) -> CausalLM:
    """A folder whose tokenizer got a pad token, and whose embedding was not resized."""
    hf: Any = llama.model
    hf.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    return CausalLM.load(tmp_path)


def test_a_pad_token_without_an_embedding_pads_nothing(
    padded: CausalLM, llama: CausalLM, tmp_path: Path
) -> None:
    assert padded.tokenizer.pad_token_id == padded.num_embeddings, "the case that is tested"
    assert padded.pad_id < padded.num_embeddings
    rows = [(5, 6, 7), (8,)]
    assert offline.generate(padded, rows, 3) == offline.generate(llama, rows, 3)
    lane = adaple_bench(padded, CONFIG, TextResources(tmp_path))
    assert lane.edit(("Lyon is twinned with", "Pisa"), ("Nokia made", "phones")).edits


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused(llama: CausalLM) -> None:
    hf: Any = llama.model
    hf.resize_token_embeddings(llama.num_embeddings - 10)
    with pytest.raises(UnsupportedModelError, match="10 tokens of the tokenizer"):
        CausalLM(hf, llama.tokenizer)


def test_a_start_of_text_that_the_model_lacks_is_refused(llama: CausalLM) -> None:
    llama.tokenizer.add_special_tokens({"bos_token": "<new>"})
    number = llama.tokenizer.convert_tokens_to_ids("<new>")
    llama.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<new> $A", special_tokens=[("<new>", number)]
    )
    with pytest.raises(UnsupportedModelError, match="first '<new>'"):
        CausalLM(llama.model, llama.tokenizer)


def test_ends_of_text_are_the_tokenizers_and_those_of_the_generation_config(
    llama: CausalLM,
) -> None:
    hf: Any = llama.model
    for named, expected in ((7, {7}), ([7, 9], {7, 9}), (None, set())):
        hf.generation_config = GenerationConfig(eos_token_id=named)
        hf.config.eos_token_id = None
        view = CausalLM(hf, llama.tokenizer)
        assert set(view.end_ids) == {llama.tokenizer.eos_token_id} | expected


def test_what_a_generation_config_asks_in_vain_is_named() -> None:
    read = GenerationConfig(eos_token_id=7, num_beams=1, temperature=1.0)
    assert unread_generation_config(read) == unread_generation_config(None) == {}
    asking = GenerationConfig(
        eos_token_id=7, repetition_penalty=1.05, do_sample=True, temperature=0.7
    )
    assert unread_generation_config(asking) == {
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
    }
