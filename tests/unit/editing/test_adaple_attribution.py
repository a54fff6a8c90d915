"""Provenance: which edits shaped a forward pass."""

from __future__ import annotations

import pytest
import torch

from errata.editing.adaple.attribution import Directions, attribute
from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.state import AdapleState
from errata.editing.adaple.view import AdapleAttribution
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right
from errata.errors import PreconditionError
from tests.unit.editing.lanes import adaple_bench
from tests.unit.editing.tiny_models import TextResources, make_batch, make_model

CONFIG = AdapleConfig(layers=(1, 2), num_prefixes=0, subject_keys=False, steps=5, gain=20.0)


@pytest.fixture
def edited(resources: TextResources) -> tuple[CausalLM, AdapleState]:
    model = make_model("llama")
    lane = adaple_bench(model, CONFIG, resources).lane
    for seq in (1, 2):
        batch = make_batch(seq, 2 * (seq - 1))
        result = lane.fit(batch)
        names = tuple(edit.name for edit in batch.edits)
        lane.prepare(Commit(seq, names, result.artifact)).apply()
    state = lane.state
    return model, state


def _run(model: CausalLM, texts: list[str]) -> torch.Tensor:
    ids, mask = pad_right(model, [model.tokenizer(text)["input_ids"] for text in texts])
    model.model(ids, attention_mask=mask)
    return mask


def test_an_edits_prompt_is_attributed_to_it(edited: tuple[CausalLM, AdapleState]) -> None:
    model, state = edited
    batches = (make_batch(1, 0), make_batch(2, 2))
    texts = [edit.prompt for batch in batches for edit in batch.edits]
    with AdapleAttribution(state) as recorder:
        named = recorder.edits(_run(model, texts))
    for name, row in zip(["edits/1-0", "edits/1-1", "edits/2-0", "edits/2-1"], named, strict=True):
        assert name in row
    assert sum(len(row) for row in named) < 16  # control: not every edit is named for every row


def test_reverted_edits_are_no_longer_named(edited: tuple[CausalLM, AdapleState]) -> None:
    model, state = edited
    texts = [make_batch(1).edits[0].prompt]
    with AdapleAttribution(state) as recorder:
        assert "edits/1-0" in recorder.edits(_run(model, texts))[0]
        state.prepare_reversal(["edits/1-0"]).apply()
    with AdapleAttribution(state) as later:
        assert "edits/1-0" not in later.edits(_run(model, texts))[0]


@pytest.mark.promise("P10")
def test_an_attribution_names_the_edits_that_were_active_when_it_was_made(
    edited: tuple[CausalLM, AdapleState],
) -> None:
    """All chunks of a prompt's prefill belong to one version, even if edits commit in between."""
    model, state = edited
    texts = [make_batch(1).edits[0].prompt]
    before = AdapleAttribution(state)
    state.prepare_reversal(["edits/1-0"]).apply()
    with before as recorder:
        assert "edits/1-0" in recorder.edits(_run(model, texts))[0]


def test_recording_changes_no_logit_and_leaves_no_hook(
    edited: tuple[CausalLM, AdapleState],
) -> None:
    model, state = edited
    ids = torch.tensor([[0, 40, 50]])
    plain = model.model(ids).logits
    with AdapleAttribution(state) as recorder:
        assert torch.equal(model.model(ids).logits, plain)
        assert len(model.down(2)._forward_pre_hooks) == 1
    assert len(model.down(2)._forward_pre_hooks) == 0
    with pytest.raises(PreconditionError, match="no forward pass"):
        recorder.edits(torch.ones(1, 3))


def test_names_come_in_order_and_padding_does_not_count() -> None:
    directions = torch.eye(3)[:, [2, 0]]  # newest first: edit b responds to axis 2, a to axis 0
    inputs = torch.zeros(3, 2, 3)
    inputs[0, 0] = torch.tensor([1.0, 0.0, 0.5])
    inputs[1, 1] = torch.tensor([9.0, 9.0, 9.0])
    inputs[2, 0] = torch.tensor([0.4, 9.0, -9.0])
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
    both, none = Directions.of(["b", "a"], directions), Directions.of([], directions[:, :0])
    assert attribute(inputs, mask, both, 0.5) == [["b", "a"], [], []]
    unmasked = attribute(inputs, torch.ones(3, 2), both, 0.5)
    assert unmasked == [["b", "a"], ["b", "a"], []]
    assert attribute(inputs, mask, none, 0.5) == [[], [], []]


@pytest.mark.promise("P10")
@pytest.mark.parametrize("seed", range(5))
def test_the_coarse_product_rules_out_no_edit_that_shaped_an_answer(seed: int) -> None:
    """The shares lie on both sides of the threshold, as close to it as fp32 can resolve."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 96, generator=generator)
    exact = torch.randn(96, 400, generator=generator)
    position = torch.randint(0, 12, (400,), generator=generator)
    share = (x.reshape(12, 96)[position] * exact.T).sum(1)
    target = 0.5 + torch.linspace(-1e-4, 1e-4, 400)
    exact = exact * (target / share)
    names = [str(n) for n in range(400)]
    fast = Directions(tuple(names), exact, exact.bfloat16(), exact.norm(dim=0))
    slow = Directions(tuple(names), exact, None, exact.norm(dim=0))
    mask = torch.ones(4, 3)
    found = attribute(x, mask, fast, 0.5)
    assert found == attribute(x, mask, slow, 0.5)
    assert 150 < len({name for row in found for name in row}) < 400, "control"
