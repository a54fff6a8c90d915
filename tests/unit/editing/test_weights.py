"""The ledger of edited weights: order, exactness and digest."""

from __future__ import annotations

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import Contribution, EditedWeights
from errata.errors import PreconditionError
from tests.unit.editing.tiny_models import make_model


def _change(model: CausalLM, seed: int, layers: tuple[int, ...] = (1,)) -> Contribution:
    generator = torch.Generator().manual_seed(seed)
    dense = {
        layer: torch.randn(model.d, model.d_ff, generator=generator) * 10.0**-seed
        for layer in layers
    }
    return Contribution(layers, lambda layer: dense[layer])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_appending_and_rebuilding_give_the_same_bits(family: str) -> None:
    grown, rebuilt = make_model(family), make_model(family)
    a, b = EditedWeights(grown), EditedWeights(rebuilt)
    changes = {(seq, "lane"): _change(grown, seq, (1, 2)) for seq in range(1, 6)}
    for key, change in changes.items():
        a.prepare({key: change})()
    b.prepare(changes)()
    assert torch.equal(grown.down_weight(1), rebuilt.down_weight(1))
    assert a.digest() == b.digest()
    # control: another order of summation gives other bits
    c = EditedWeights(other := make_model(family))
    c.prepare({(6 - seq, "lane"): change for (seq, _), change in changes.items()})()
    assert not torch.equal(other.down_weight(1), grown.down_weight(1))
    torch.testing.assert_close(other.down_weight(1), grown.down_weight(1))


def test_a_late_contribution_is_summed_in_order() -> None:
    late, ordered = make_model("llama"), make_model("llama")
    a, b = EditedWeights(late), EditedWeights(ordered)
    first, second, third = (_change(late, seq) for seq in (1, 2, 3))
    for seq, change in ((1, first), (3, third), (2, second)):
        a.prepare({(seq, "lane"): change})()
    for seq, change in ((1, first), (2, second), (3, third)):
        b.prepare({(seq, "lane"): change})()
    assert a.digest() == b.digest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reverting_all_restores_the_bits_of_the_base(dtype: torch.dtype) -> None:
    model = make_model("gpt2")
    model.model.to(dtype)  # type: ignore[arg-type]
    base = model.down_weight(1).clone()
    ledger = EditedWeights(model)
    for seq in (1, 2):
        ledger.prepare({(seq, "lane"): _change(model, seq)})()
    assert not torch.equal(model.down_weight(1), base)
    ledger.prepare({(1, "lane"): None, (2, "lane"): None})()
    assert torch.equal(model.down_weight(1), base)
    assert ledger.digest() == EditedWeights(model).digest()


def test_reverting_one_gives_the_bits_of_the_others_alone() -> None:
    model, other = make_model("llama"), make_model("llama")
    a, b = EditedWeights(model), EditedWeights(other)
    changes = {(seq, "lane"): _change(model, seq) for seq in (1, 2, 3)}
    a.prepare(changes)()
    a.prepare({(2, "lane"): None})()
    del changes[2, "lane"]
    b.prepare(changes)()
    assert torch.equal(model.down_weight(1), other.down_weight(1))


def test_prepare_changes_nothing_until_the_swap() -> None:
    model = make_model("llama")
    ledger, base = EditedWeights(model), model.current_digest()
    swap = ledger.prepare({(1, "lane"): _change(model, 1)})
    assert model.current_digest() == base
    swap()
    assert model.current_digest() != base


def test_swap_prepared_before_another_is_refused() -> None:
    model = make_model("llama")
    ledger = EditedWeights(model)
    stale = ledger.prepare({(1, "lane"): _change(model, 1)})
    ledger.prepare({(2, "lane"): _change(model, 2)})()
    kept = model.current_digest()
    with pytest.raises(PreconditionError, match="prepare it again"):
        stale()
    assert model.current_digest() == kept


def test_digest_detects_a_weight_that_was_changed_elsewhere() -> None:
    model = make_model("llama")
    ledger = EditedWeights(model)
    ledger.prepare({(1, "lane"): _change(model, 1)})()
    before = ledger.digest()
    model.down_weight(1)[0, 0] += 1e-3
    assert ledger.digest() != before


def test_master_is_fp32_under_a_bf16_model() -> None:
    model = make_model("llama")
    model.model.to(torch.bfloat16)  # type: ignore[arg-type]
    weight = model.down_weight(1).float()
    ledger = EditedWeights(model)
    step = weight.abs().clamp(min=1e-3) * 1e-3  # below one bf16 step, eight of them above
    for seq in range(1, 9):
        ledger.prepare({(seq, "lane"): Contribution((1,), lambda _: step)})()
    assert torch.equal(model.down_weight(1), (weight + 8 * step).bfloat16())
    assert not torch.equal(model.down_weight(1).float(), weight)
