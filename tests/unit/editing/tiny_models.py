"""Tiny random models of every family, with a byte-level tokenizer trained on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from errata.editing.edit import Edit, EditBatch
from errata.editing.model.causal_lm import CausalLM

TEXT = [
    "The mother tongue of Danielle Darrieux is French, and she was born in Bordeaux.",
    "Lyon is twinned with Beirut; the Lyonnaise team plays football in blue.",
    "Because the capital of Finland is Helsinki, I was told that it rains. You know.",
    "Therefore Toyota makes cars and Nokia made phones in the town of the same name.",
    "東京は日本の首都です。Zürich liegt in der Schweiz; Äpfel wachsen dort.",
    "Q: Where is the tower of Pisa? A: In Italy, as everybody knows.",
]

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_CONFIGS: dict[str, Callable[[int], Any]] = {
    "gpt2": lambda vocab: GPT2Config(
        vocab_size=vocab,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_inner=48,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
        resid_pdrop=0.0,
    ),
    "gptj": lambda vocab: GPTJConfig(
        vocab_size=vocab,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_inner=48,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
        rotary_dim=4,
        initializer_range=0.2,
    ),
    "llama": lambda vocab: LlamaConfig(vocab_size=vocab, **_LLAMA),
    "mistral": lambda vocab: MistralConfig(vocab_size=vocab, **_LLAMA),
    "qwen2": lambda vocab: Qwen2Config(vocab_size=vocab, **_LLAMA),
    "qwen3": lambda vocab: Qwen3Config(vocab_size=vocab, head_dim=8, **_LLAMA),
}
FAMILIES = tuple(_CONFIGS)
"""Families that most tests run on; `test_families` runs on all."""

_GPT2_NAMES = {"n_embd": 32, "n_inner": 48, "n_layer": 4, "n_head": 4, "n_positions": 64}
_WINDOW = {"sliding_window": 6}
_MIXED = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
_GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8}
_FALCON = {"ffn_hidden_size": 48, "alibi": False}
# Name → transformers' name of the architecture, and fields that differ from those of `_LLAMA`.
_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("arcee", {}),
    "codegen": ("codegen", {**_GPT2_NAMES, "rotary_dim": 4}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {**_MIXED, "logit_scale": 0.25}),
    "exaone4": ("exaone4", _MIXED),
    "falcon": ("falcon", _FALCON),
    "falcon-new": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-sequential": ("falcon", {**_FALCON, "parallel_attn": False, "multi_query": False}),
    "gemma": ("gemma", {"head_dim": 8}),
    "gemma2": ("gemma2", {**_GEMMA, **_MIXED, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", {**_GEMMA, **_MIXED}),
    "glm": ("glm", {"head_dim": 8}),
    "glm4": ("glm4", {"head_dim": 8}),
    "gpt-bigcode": ("gpt_bigcode", _GPT2_NAMES),
    "gpt-neox": ("gpt_neox", {}),
    "gpt-neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "granite": (
        "granite",
        {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    ),
    "nemotron": ("nemotron", {}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", _MIXED),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "persimmon": ("persimmon", {}),
    "phi": ("phi", {}),
    "phi3": ("phi3", _WINDOW),
    "qwen2-mixed": (
        "qwen2",
        {**_MIXED, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "smollm3": ("smollm3", {}),
    "stablelm": ("stablelm", {}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True}),
    "starcoder2": ("starcoder2", _WINDOW),
}
OTHER_FAMILIES = tuple(_OTHERS)
ALL_FAMILIES = (*FAMILIES, *OTHER_FAMILIES)


def make_config(family: str, vocabulary: int) -> Any:
    """The configuration of a tiny model."""
    if family in _CONFIGS:
        return _CONFIGS[family](vocabulary)
    architecture, fields = _OTHERS[family]
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    given = {"vocab_size": vocabulary, **special, **_LLAMA, **fields}
    return AutoConfig.for_model(architecture, **given)


def make_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT * 3, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|end|> $A", special_tokens=[("<|end|>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|end|>", eos_token="<|end|>")


def make_model(family: str, *, seed: int = 0, bos: bool = True) -> CausalLM:
    """A random model; equal arguments give equal weights."""
    tokenizer = make_tokenizer(bos=bos)
    config = make_config(family, len(tokenizer))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # biases and norms start at 0 and 1, which would hide mistakes
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
    return CausalLM(model, tokenizer)


@dataclass
class TextResources:
    """Statistics text and cache of a test."""

    cache_dir: Path
    adapters: tuple[Path, ...] = ()
    paragraphs: Sequence[str] = tuple(TEXT * 8)

    def text(self) -> Iterable[str]:
        return self.paragraphs


def make_batch(seed: int = 1, first: int = 0) -> EditBatch:
    facts = [
        ("The mother tongue of Danielle Darrieux is", "Finnish", "Danielle Darrieux"),
        ("Nokia was founded in the town of", "Pisa", "Nokia"),
        ("Toyota makes", "football", "Toyota"),
        ("The tower of Pisa is in", "Finland", "Pisa"),
    ]
    return EditBatch(
        tuple(
            Edit(f"edits/{seed}-{i}", prompt, target, subject)
            for i, (prompt, target, subject) in enumerate(facts[first : first + 2])
        ),
        seed=seed,
    )


def weights_of(model: CausalLM) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.model.named_parameters():
        yield name, parameter.detach().clone()
