"""Key statistics: their values, their cache, and the base model they must come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.covariance import compute, gather, system
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError, PreconditionError
from tests.unit.editing.tiny_models import TEXT, TextResources, make_model

CONFIG = AdapleConfig(layers=(1, 2), covariance_samples=4)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_second_moment_is_the_mean_over_every_real_token(family: str) -> None:
    model = make_model(family)
    result = compute(model, TEXT, (1, 3), max_tokens=10**6)
    recorded: list[Tensor] = []
    handle = model.down(3).register_forward_pre_hook(lambda _, args: recorded.append(args[0][0]))
    for text in TEXT:  # one at a time, without padding
        ids = model.tokenizer(text, truncation=True, max_length=64)["input_ids"]
        model.model(torch.tensor([ids]))
    handle.remove()
    keys = torch.cat(recorded).double()
    torch.testing.assert_close(result[3], keys.T @ keys / len(keys), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(result[3], result[1], rtol=1e-2)


def test_second_call_reads_the_cache(llama: CausalLM, resources: TextResources) -> None:
    progress: list[tuple[int, int]] = []

    def record(done: int, total: int) -> None:
        progress.append((done, total))

    first = gather(llama, CONFIG, resources, on_progress=record)
    total = 4 * llama.d_ff
    assert progress[-1] == (total, total)
    count = len(progress)
    again = gather(llama, CONFIG, resources, on_progress=record)
    assert len(progress) == count
    assert all(torch.equal(first[layer], again[layer]) for layer in (1, 2))
    # control: the cache does not serve another model
    gather(make_model("llama", seed=1), CONFIG, resources, on_progress=record)
    assert len(progress) > count


def test_damaged_cache_file_is_computed_again(llama: CausalLM, resources: TextResources) -> None:
    first = gather(llama, CONFIG, resources)
    for path in resources.cache_dir.iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    again = gather(llama, CONFIG, resources)
    assert all(torch.equal(first[layer], again[layer]) for layer in (1, 2))


def test_edited_model_gives_no_statistics(llama: CausalLM, resources: TextResources) -> None:
    llama.set_down_weight(0, 2 * llama.down_weight(0))
    with pytest.raises(PreconditionError, match="base model first"):
        gather(llama, CONFIG, resources)
    assert list(resources.cache_dir.iterdir()) == []


def test_edited_model_uses_the_cache_of_its_base(llama: CausalLM, resources: TextResources) -> None:
    first = gather(llama, CONFIG, resources)
    llama.set_down_weight(0, 2 * llama.down_weight(0))
    assert torch.equal(gather(llama, CONFIG, resources)[1], first[1])


def test_text_without_tokens_is_refused(llama: CausalLM) -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        compute(llama, [], (1,), max_tokens=10)


def test_system_scales_with_lambda_and_adds_ridge_and_earlier_keys() -> None:
    moment = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    config = AdapleConfig(lam=10.0, ridge=0.5)
    assert system(moment, config, None).diagonal().tolist() == [20.0, 40.0]
    earlier = torch.ones(2, 2, dtype=torch.float64)
    assert system(moment, config, earlier).tolist() == [[21.0, 1.0], [1.0, 41.0]]
