"""Writes a tiny Llama as GGUF, as llama.cpp's converter does, and the model that it must become."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.unit.editing.tiny_models import TEXT

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_HEADS, _KEY_HEADS, _LAYERS, _D, _D_FF = 4, 2, 2, 64, 96
_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges never join digits, as SmolLM2's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*TEXT * 3, "def f():\n        return\n" * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama whose projections are multiples of Q8_0's steps, so that nothing is lost."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_D,
        intermediate_size=_D_FF,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KEY_HEADS,
        max_position_embeddings=96,
        initializer_range=0.2,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
                else:
                    parameter.copy_(torch.from_numpy(_rounded(parameter.numpy())))
    return model.eval()


def _rounded(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    kind = gguf.GGMLQuantizationType.Q8_0
    return np.asarray(gguf.dequantize(gguf.quantize(weight, kind), kind))


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    architecture: str = "llama",
    kind: str = "model",
    text: Mapping[str, str] | None = None,
    numbers: Mapping[str, int] | None = None,
    flags: Mapping[str, bool] | None = None,
    without: Iterable[str] = (),
    extra: Iterable[str] = (),
) -> None:
    """Writes the file.

    Args:
        path: the new file.
        model: from `make_model`.
        tokenizer: the model's.
        architecture: as the file states it.
        kind: `model`, `adapter` or another type of file.
        text: further keys, or other values; so are `numbers` and `flags`.
        numbers: see `text`.
        flags: see `text`.
        without: tensors to leave out; `*` for all.
        extra: tensors to add.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    _write_config(writer, model)
    _write_tokenizer(writer, tokenizer, text or {})
    for key, value in (text or {}).items():
        if not key.startswith("tokenizer."):
            writer.add_string(key, value)
    for key, number in (numbers or {}).items():
        writer.add_uint32(key, number)
    for key, flag in (flags or {}).items():
        writer.add_bool(key, flag)
    left_out = set(without)
    for name, weight in _tensors(model):
        if name in left_out or "*" in left_out:
            continue
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            kept = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(weight, kept), raw_dtype=kept)
    for name in extra:
        writer.add_tensor(name, np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    config: Any = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, text: Mapping[str, str]
) -> None:
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(text.get("tokenizer.ggml.pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in core["merges"]])
    writer.add_bos_token_id(core["vocab"]["<|im_start|>"])
    writer.add_eos_token_id(core["vocab"]["<|im_end|>"])
    writer.add_chat_template(text.get("tokenizer.chat_template", TEMPLATE))


def _tensors(model: LlamaForCausalLM) -> Iterable[tuple[str, np.ndarray[Any, Any]]]:
    state = model.state_dict()
    yield "token_embd.weight", state["model.embed_tokens.weight"].numpy()
    yield "output_norm.weight", state["model.norm.weight"].numpy()
    heads = {"attn_q": _HEADS, "attn_k": _KEY_HEADS}
    for layer in range(_LAYERS):
        for theirs, name in _BLOCK.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"].numpy()
            if name in heads:  # llama.cpp rotates neighbouring pairs, transformers halves
                halves = weight.reshape(heads[name], 2, -1, weight.shape[1])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
            yield f"blk.{layer}.{name}.weight", weight
