"""The common view of all families, and the models that it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    T5Config,
)

from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError, ModelNotFoundError, UnsupportedModelError
from tests.unit.editing.tiny_models import FAMILIES, make_model, make_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = make_model("llama")
    folder = tmp_path / "model"
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_down_weight_maps_keys_to_ffn_outputs(family: str) -> None:
    model = make_model(family)
    seen: list[torch.Tensor] = []
    model.down(2).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 3, model.d)
    out = model.ffn(2)(x)
    bias = getattr(model.down(2), "bias", None)
    offset = torch.zeros(model.d) if bias is None else bias
    expected = seen[0] @ model.down_weight(2).T + offset
    assert model.down_weight(2).shape == (model.d, model.d_ff) == (32, 48)
    torch.testing.assert_close(out, expected)
    # control: another layer's weight gives something else
    assert not torch.allclose(out, seen[0] @ model.down_weight(1).T + offset)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_compose_to_the_models_logits(family: str) -> None:
    model = make_model(family)
    ids = torch.tensor([[0, 5, 9, 30]])
    hidden = model.body(input_ids=ids).last_hidden_state
    torch.testing.assert_close(model.head(hidden), model.model(ids).logits)
    assert (model.num_layers, model.max_positions) == (4, 64)
    assert model.embeddings(ids).shape == (1, 4, model.d)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_ffn_are_what_a_block_adds(family: str) -> None:
    model = make_model(family)
    parts: dict[str, torch.Tensor] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        def hook(_, args, output):  # type: ignore[no-untyped-def]
            parts[name] = output[0] if isinstance(output, tuple) else output

        return hook

    model.attention(1).register_forward_hook(keep("attention"))
    model.ffn(1).register_forward_hook(keep("ffn"))
    model.blocks[1].register_forward_hook(keep("block"))
    model.blocks[0].register_forward_hook(keep("input"))
    model.model(torch.tensor([[0, 5, 9, 30]]))
    total = parts["input"] + parts["attention"] + parts["ffn"]
    torch.testing.assert_close(parts["block"], total)
    assert not torch.allclose(parts["block"], parts["input"] + parts["ffn"])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_set_down_weight_writes_through_the_transposed_view(family: str) -> None:
    model = make_model(family)
    new = torch.randn(model.d, model.d_ff)
    model.set_down_weight(3, new)
    stored = model.down(3).get_parameter("weight")
    assert torch.equal(stored if family == "llama" else stored.T, new)
    assert not torch.equal(model.down_weight(2), new)


def test_digest_is_that_of_the_base_and_depends_on_weights_and_config() -> None:
    model, same, other = make_model("llama"), make_model("llama"), make_model("llama", seed=1)
    assert model.digest == same.digest != other.digest
    model.set_down_weight(0, model.down_weight(0) + 1)
    assert model.digest == same.digest != model.current_digest()
    same.model.config.rms_norm_eps = 0.5  # type: ignore[union-attr]
    assert same.current_digest() != same.digest


def test_load_gives_the_saved_model_frozen(saved: Path) -> None:
    model = CausalLM.load(saved)
    assert model.digest == make_model("llama").digest
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not model.model.training
    assert CausalLM.load(saved, dtype="bfloat16").dtype == torch.bfloat16


def test_missing_pad_token_is_replaced_without_changing_the_tokenizer(saved: Path) -> None:
    model = CausalLM.load(saved)
    assert model.tokenizer.pad_token_id is None
    assert model.pad_id == model.tokenizer.eos_token_id


def test_missing_folder_and_folder_without_config_are_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        CausalLM.load(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        CausalLM.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        CausalLM.load(tmp_path / "file")


def test_unreadable_config_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(UnsupportedModelError, match=r"config\.json"):
        CausalLM.load(saved)


def test_encoder_and_encoder_decoder_are_refused(saved: Path) -> None:
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    T5Config(d_model=32, num_layers=1).save_pretrained(saved)
    with pytest.raises(UnsupportedModelError, match="not a causal"):
        CausalLM.load(saved)
    bert = BertModel(BertConfig(intermediate_size=48, **tiny))
    with pytest.raises(UnsupportedModelError, match="module layouts"):
        CausalLM(bert, make_tokenizer())
    shutil.rmtree(saved)
    bert.save_pretrained(saved)
    with pytest.raises(UnsupportedModelError):
        CausalLM.load(saved)


def test_block_with_an_unknown_module_is_refused() -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99, add_cross_attention=True)
    with pytest.raises(UnsupportedModelError, match="module layouts"):
        CausalLM(GPT2LMHeadModel(config), make_tokenizer())


def test_layers_of_different_shapes_are_refused() -> None:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=99,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.model.layers[1].mlp.down_proj = nn.Linear(40, 32, bias=False)
    with pytest.raises(UnsupportedModelError, match="layer 1"):
        CausalLM(model, make_tokenizer())
    del model.model.layers[1].mlp.down_proj
    with pytest.raises(UnsupportedModelError, match="module layouts"):  # a layer without its FFN
        CausalLM(model, make_tokenizer())


@pytest.mark.filterwarnings("default")
def test_broken_weights_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = next(key for key in tensors if "down_proj" in key)
    tensors[name][0, 0] = torch.nan
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match="NaN"):
        CausalLM.load(saved)
    del tensors[name]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match="lack 1 tensors"):
        CausalLM.load(saved)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UnsupportedModelError, match="cannot be read"):
        CausalLM.load(saved)


def test_missing_tokenizer_is_refused(saved: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (saved / name).unlink()
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        CausalLM.load(saved)


def test_unknown_dtype_and_device_are_refused(saved: Path) -> None:
    with pytest.raises(InvalidRequestError, match="float32, float16, bfloat16"):
        CausalLM.load(saved, dtype="int8")
    with pytest.raises(InvalidRequestError, match="cannot be used"):
        CausalLM.load(saved, device="cuda:99")
    assert json.loads((saved / "config.json").read_text())["model_type"] == "llama"
