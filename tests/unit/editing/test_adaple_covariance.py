"""Key statistics: their values, their cache, and the base model they must come from."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from errata.editing.adaple import covariance
from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.covariance import compute, gather, system
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import text_ids
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


def _parts_run(model: CausalLM, layers: tuple[int, ...]) -> Counter[str]:
    """How often each part of the model is called while statistics are computed."""
    runs: Counter[str] = Counter()
    with ExitStack() as hooks:
        for name, part in model.model.named_modules():
            handle = part.register_forward_hook(lambda *_, name=name: runs.update([name]))
            hooks.callback(handle.remove)
        compute(model, TEXT, layers, max_tokens=10**6)
    return runs


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_a_pass_ends_at_the_last_layer_whose_keys_are_needed(family: str) -> None:
    model = make_model(family)
    names = {part: name for name, part in model.model.named_modules()}
    runs = _parts_run(model, (1, 2))
    assert runs[names[model.down(1)]] == 1, "one batch"
    assert runs[names[model.activation(2)]] == 1
    behind = [model.down(2), model.blocks[2], model.blocks[3], model.attention(3), model.norm]
    for part in [*behind, model.head]:
        assert not runs[names[part]], names[part]
    # control: a later layer is reached if its keys are needed
    assert _parts_run(model, (1, 3))[names[model.blocks[2]]] == 1


def test_a_layers_matrix_does_not_depend_on_where_the_pass_ends(llama: CausalLM) -> None:
    ended = compute(llama, TEXT, (1,), max_tokens=10**6)
    whole = compute(llama, TEXT, (0, 1, 2, 3), max_tokens=10**6)
    torch.testing.assert_close(ended[1], whole[1], rtol=1e-6, atol=1e-9)


def test_batches_change_nothing(llama: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their size, nor the order of the paragraphs, nor the strips of the products."""
    together = compute(llama, TEXT, (1, 2), max_tokens=10**6)
    monkeypatch.setattr(covariance, "_BATCH_TOKENS", 1)  # every paragraph alone
    monkeypatch.setattr(covariance, "_STRIPS", 7)  # does not divide d_ff
    alone = compute(llama, TEXT[::-1], (2, 1), max_tokens=10**6)
    for layer in (1, 2):
        assert torch.equal(alone[layer], alone[layer].T)
        torch.testing.assert_close(together[layer], alone[layer], rtol=1e-4, atol=1e-7)


def test_little_is_computed_on_padding(llama: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ["You know." * (1 + number % 6) for number in range(60)]
    shapes: list[torch.Size] = []
    handle = llama.embeddings.register_forward_pre_hook(
        lambda _, args: shapes.append(args[0].shape)
    )
    monkeypatch.setattr(covariance, "_BATCH_TOKENS", 80)
    compute(llama, text, (0,), max_tokens=10**6)
    handle.remove()
    assert sum(rows for rows, _ in shapes) == len(text)
    assert max(shape.numel() for shape in shapes) <= 80
    num_tokens = sum(map(len, text_ids(llama, text)))
    assert num_tokens <= sum(shape.numel() for shape in shapes) < 1.2 * num_tokens


def test_the_first_tokens_of_a_text_are_counted(llama: CausalLM) -> None:
    """In whole groups of paragraphs; blank paragraphs are no part of a group."""
    told: list[tuple[int, int]] = []
    text = [TEXT[0], "", *TEXT * 20]
    found = compute(llama, text, (1,), max_tokens=30, on_progress=lambda *now: told.append(now))
    first = [row for row in text_ids(llama, text, most=256) if row][:16]
    total = sum(map(len, first))
    assert total > 30
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert told == sorted(told)
    read = [paragraph for paragraph in text if paragraph][:16]
    same = compute(llama, read, (1,), max_tokens=10**6)
    assert torch.equal(found[1], same[1])


def test_second_call_reads_the_cache(llama: CausalLM, resources: TextResources) -> None:
    progress: list[tuple[int, int]] = []

    def record(done: int, total: int) -> None:
        progress.append((done, total))

    first = gather(llama, CONFIG, resources, on_progress=record)
    total = 4 * llama.d_ff
    assert progress[-1][0] == progress[-1][1] >= total
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
    # A process that was killed while it wrote left this.
    (resources.cache_dir / "covariance-0.1f.tmp").write_bytes(b"half")
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
