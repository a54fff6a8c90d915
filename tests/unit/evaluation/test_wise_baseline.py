"""The WISE baseline: margins, shards and their merging, and which prompts read which memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from records import records
from torch import Tensor, nn

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine import offline
from errata.engine.sampling import GREEDY
from errata.errors import FitError
from errata.evaluation.baselines.activations import activations
from errata.evaluation.baselines.texts import own_texts
from errata.evaluation.baselines.wise import SideMemory, Wise, WiseConfig, ties
from errata.evaluation.systems.local import LocalModel

PAIRS = [(record.prompt, record.target_new) for record in records()]
LEARNS = WiseConfig(layer=1, alpha=0.5, beta=3.0, gamma=2.0, ratio=0.5, steps=100, share=0.8)


def _any_delta(model: CausalLM) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.3 * torch.randn(model.d, model.d_ff, generator=generator)


def _strengths(
    model: CausalLM, delta: Tensor, texts: Sequence[Sequence[int]], first: int | None = None
) -> Tensor:
    """Δ of each text, or of each token of a text from `first` on."""
    norms = [
        torch.linalg.vector_norm(activations(model, [ids], 1)[0] @ delta.T, dim=-1) for ids in texts
    ]
    if first is not None:
        return norms[0][first:]
    return torch.stack([each.mean() for each in norms])


def _with(**values: object) -> WiseConfig:
    return LEARNS.model_copy(update=values)


def test_ties_keeps_the_largest_entries_and_the_mean_of_those_with_the_sums_sign() -> None:
    first = torch.tensor([[4.0, 1.0, -3.0, 0.0, 2.0]])
    second = torch.tensor([[2.0, 0.5, 4.0, 5.0, -1.0]])
    # Kept: 4, −3, 2 and 2, 4, 5; the third entries disagree, and their sum is positive.
    merged = ties(torch.stack([first, second]), 0.6)
    assert merged.tolist() == [[3.0, 0.0, 4.0, 5.0, 2.0]]


def test_margins_are_those_of_the_paper(llama: CausalLM) -> None:
    system = Wise(llama, WiseConfig(alpha=5.0, beta=20.0, gamma=10.0))
    # Two texts of the edit with 18 and 12, and the other text with 6.
    loss = system._margins(torch.tensor([18.0, 12.0, 6.0]))
    assert float(loss) == pytest.approx((6 - 5) + ((20 - 18) + (20 - 12)) / 2 + (10 - 6) / 2)
    assert float(system._margins(torch.tensor([25.0, 30.0, 4.0]))) == 0.0


def test_an_edit_changes_only_entries_in_the_mask_and_within_the_bound(llama: CausalLM) -> None:
    system = Wise(llama, _with(share=0.3, bound=0.01))
    system.edit(records()[:1])
    delta = system.shard.delta
    assert 0.2 < system.mask.float().mean() < 0.4
    assert not delta[~system.mask].any()
    assert delta[system.mask].any()
    assert float(delta.abs().max()) <= 0.01 + 1e-6


def test_an_edit_is_learned(llama: CausalLM) -> None:
    system = Wise(llama, LEARNS)
    (before,) = system.score(PAIRS[:1])
    system.edit(records()[:1])
    (after,) = system.score(PAIRS[:1])
    assert after.mean_log_prob > before.mean_log_prob + 0.5


def test_the_threshold_is_the_smallest_strength_of_the_edits(llama: CausalLM) -> None:
    """ε is measured in an edit's last step, before it changes D once more."""
    one_step, system = Wise(llama, _with(steps=1)), Wise(llama, _with(steps=2))
    assert system.shard.least == math.inf
    record = records()[0]
    one_step.edit([record])
    system.edit([record])
    prefixes = ["", *(f"{text}. " for text in own_texts(llama, 0)[:10])]
    ids = [tokenise(llama, prefix + record.prompt).ids for prefix in prefixes]
    wanted = _strengths(llama, one_step.shard.delta, ids)
    assert len(wanted) == 11
    assert system.shard.least == pytest.approx(float(wanted.mean()), rel=1e-4)
    system.shard.least = 1e-6
    system.edit(records()[1:2])
    assert system.shard.least == 1e-6


def test_shards_that_are_full_are_merged(llama: CausalLM) -> None:
    system = Wise(llama, _with(shard_edits=1, num_shards=2, density=0.5, steps=20))
    first_mask = system.mask
    system.edit(records()[:1])
    (first, _), second_mask = system.memories, system.mask
    assert not torch.equal(first_mask, second_mask), "each shard has a mask of its own"
    system.edit(records()[1:2])
    merged, opened = system.memories
    assert (merged.num_edits, opened.num_edits) == (2, 0)
    assert not merged.delta[~(first_mask | second_mask)].any()
    of_first = first_mask & ~second_mask & (merged.delta != 0)
    assert of_first.any()
    assert torch.equal(merged.delta[of_first], first.delta[of_first])
    assert (merged.delta[second_mask & ~first_mask] != 0).any()
    assert merged.least <= first.least < math.inf


def test_a_prompt_reads_the_memory_that_answers_it_most_strongly(llama: CausalLM) -> None:
    system = Wise(llama, _with(ratio=0.5))
    prompts = [tokenise(llama, prompt).ids for prompt, _ in PAIRS[:2]]
    lengths = [len(prompt) for prompt in prompts]
    hidden = activations(llama, prompts, 1)
    weak, strong = torch.full((2, llama.d, llama.d_ff), 0.01)
    strong *= 3
    norms = torch.linalg.vector_norm(hidden @ weak.T, dim=-1)
    wanted = torch.stack([norms[i, :length].mean() for i, length in enumerate(lengths)])
    least = float(wanted.min())
    system._merged = [SideMemory(weak, least, 1), SideMemory(strong, least, 1)]
    index, is_read = system.chosen(hidden, lengths)
    assert index.tolist() == [1, 1]
    assert is_read.all()
    # The strongest, but too weak for its own edits; then none is strong enough.
    system._merged[1].least = 100 * least
    assert system.chosen(hidden, lengths)[0].tolist() == [0, 0]
    system._merged[0].least = 100 * least
    assert not system.chosen(hidden, lengths)[1].any()


def test_what_is_answered_too_weakly_is_the_base_models_bit_for_bit(llama: CausalLM) -> None:
    other = ("Nokia and Toyota play", "football")
    system = Wise(llama, LEARNS)
    pairs = [PAIRS[0], other]
    unedited = system.score(pairs)
    system.shard.delta = _any_delta(llama)
    strengths = _strengths(llama, system.shard.delta, [tokenise(llama, x).ids for x, _ in pairs])
    weak, strong = strengths.argsort().tolist()
    system.shard.least = float(strengths.mean()) / LEARNS.ratio
    edited = system.score(pairs)
    assert edited[weak] == unedited[weak]
    assert edited[strong].log_probs != unedited[strong].log_probs


def test_what_a_prompt_reads_holds_while_it_is_continued(llama: CausalLM) -> None:
    system, number = Wise(llama, LEARNS), 12
    ids = tokenise(llama, PAIRS[0][0]).ids
    delta = system.shard.delta = _any_delta(llama)
    (strength,) = _strengths(llama, delta, [ids])
    system.shard.least = 0.999 * float(strength) / LEARNS.ratio
    (found,) = system.generate([PAIRS[0][0]], number, [GREEDY])
    weight = llama.down(1).get_parameter("weight")
    base = weight.data.clone()
    weight.data += delta
    try:
        plain = LocalModel(llama)
        (wanted,) = plain.generate([PAIRS[0][0]], number, [GREEDY])
        (written,) = offline.generate(llama, [ids], number, [GREEDY])
    finally:
        weight.data.copy_(base)
    assert found == wanted != plain.generate([PAIRS[0][0]], number, [GREEDY])[0]
    later = _strengths(llama, delta, [[*ids, *written]], first=len(ids))
    assert float(later.min()) < float(strength), "some would not have been chosen on their own"


def test_a_loss_that_is_not_finite_leaves_the_shard_as_it_was(llama: CausalLM) -> None:
    system = Wise(llama, LEARNS)
    system.edit(records()[:1])
    before, least = system.shard.delta.clone(), system.shard.least
    system._config = _with(learning_rate=1e38, bound=1e38)
    with pytest.raises(FitError, match="lower the learning rate"):
        system.edit(records()[1:2])
    assert torch.equal(system.shard.delta, before)
    assert (system.shard.least, system.shard.num_edits) == (least, 1)
    assert not system.shard.delta.requires_grad


def test_a_model_that_writes_no_text_is_refused(llama: CausalLM) -> None:
    def end(_: nn.Module, args: object, logits: Tensor) -> Tensor:
        ended = torch.full_like(logits, -1e9)
        ended[..., min(llama.end_ids)] = 0
        return ended

    handle = llama.head.register_forward_hook(end)
    try:
        with pytest.raises(FitError, match="0 of 100 texts"):
            Wise(llama, LEARNS)
    finally:
        handle.remove()


def test_reset_forgets_all_edits(llama: CausalLM) -> None:
    system = Wise(llama, _with(shard_edits=1, num_shards=2, steps=5))
    unedited = system.score(PAIRS)
    found = []
    for _ in range(2):
        system.edit(records()[:3])
        found.append([memory.delta for memory in system.memories])
        assert [memory.num_edits for memory in system.memories] == [2, 1, 0]
        system.reset()
        assert [memory.num_edits for memory in system.memories] == [0]
        assert system.score(PAIRS) == unedited
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
