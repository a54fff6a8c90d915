"""What cannot be served with vLLM is refused, with the reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.engine.limits import EngineLimits
from errata.errors import InvalidRequestError, PreconditionError
from errata.worker.engines import engine_factory
from errata_vllm import versions
from errata_vllm.engine import VllmEngine
from errata_vllm.worker.structure import Structure
from tests.unit.engine.helpers import EDITION


def test_the_engine_is_found_by_its_name() -> None:
    assert engine_factory("vllm") is VllmEngine
    with pytest.raises(InvalidRequestError, match="errata, vllm; install its package"):
        engine_factory("sglang")


def test_an_untested_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions.check_version() in versions.TESTED
    monkeypatch.setattr(versions, "TESTED", ("0.1.0",))
    with pytest.raises(PreconditionError, match=r"is tested with 0\.1\.0"):
        versions.check_version()


async def test_a_model_of_another_structure_is_refused_by_name(tmp_path: Path) -> None:
    tokenizer = CausalLM.load(demo.model_path()).tokenizer
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = VllmEngine(CausalLM.load(tmp_path), EDITION, EngineLimits(max_rows=2))
    try:
        with pytest.raises(PreconditionError, match="cannot edit GPT2LMHeadModel in vLLM"):
            await engine.start()
    finally:
        await engine.close()


@pytest.mark.parametrize("options", [{"kv_cache": "1"}, {"kv_cache_gib": "-1"}])
def test_wrong_options_are_refused_with_those_that_exist(options: dict[str, str]) -> None:
    model = CausalLM.load(demo.model_path())
    with pytest.raises(InvalidRequestError, match="options are kv_cache_gib, gpu_memory"):
        VllmEngine(model, EDITION, EngineLimits(), options)


def test_quantised_ffns_are_refused() -> None:
    """vLLM's modules are stood in for by names: its CPU build has no quantised model to load."""
    linear = SimpleNamespace(quant_method=SimpleNamespace())
    block = SimpleNamespace(mlp=SimpleNamespace(gate_up_proj=linear, down_proj=linear))
    named = type("LlamaForCausalLM", (torch.nn.Module,), {})()
    named.model = SimpleNamespace(layers=[block])
    with pytest.raises(ValueError, match="quantised by SimpleNamespace"):
        Structure.of(named, torch.device("cpu"), torch.float32)
