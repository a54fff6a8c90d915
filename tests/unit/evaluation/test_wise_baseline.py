"""The WISE baseline: margins, shards and their merging, and which prompts read which memory."""

from __future__ import annotations

import math

import pytest
import torch
from records import records

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.sampling import GREEDY
from errata.evaluation.baselines.activations import activations
from errata.evaluation.baselines.wise import SideMemory, Wise, WiseConfig, ties

PAIRS = [(record.prompt, record.target_new) for record in records()]
LEARNS = WiseConfig(layer=1, alpha=0.5, beta=3.0, gamma=2.0, ratio=0.5, steps=100, share=0.8)


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


def test_an_edit_is_learned_and_what_is_answered_weakly_is_the_base_models_bit_for_bit(
    llama: CausalLM,
) -> None:
    other = [("Nokia and Toyota play", "football"), ("The tower of Pisa is", "blue")]
    system = Wise(llama, _with(ratio=1e6))
    (before,), unknown = system.score(PAIRS[:1]), system.score(other)
    system.edit(records()[:1])
    assert system.score(other) == unknown
    system._config = LEARNS
    (after,) = system.score(PAIRS[:1])
    assert after.mean_log_prob > before.mean_log_prob + 2.0


def test_the_smallest_strength_of_the_edits_is_the_threshold(llama: CausalLM) -> None:
    system = Wise(llama, LEARNS)
    assert system.shard.least == math.inf
    found = []
    for record in records()[:3]:
        system.edit([record])
        found.append(system.shard.least)
    assert found == sorted(found, reverse=True)
    assert found[-1] < math.inf


def test_shards_that_are_full_are_merged(llama: CausalLM) -> None:
    system = Wise(llama, _with(shard_edits=1, num_shards=2, density=0.5, steps=20))
    masks, deltas = [], []
    for record in records()[:2]:
        masks.append(system.mask)
        system.edit([record])
        deltas.append(system.memories[-2].delta if len(masks) == 1 else None)
    first, merged = deltas[0], system.memories[0]
    assert first is not None
    assert not torch.equal(masks[0], masks[1]), "each shard has a mask of its own"
    assert [memory.num_edits for memory in system.memories] == [2, 0]
    alone = Wise(llama, _with(shard_edits=1, num_shards=2, density=0.5, steps=20))
    alone.edit(records()[:1])
    assert torch.equal(alone.memories[0].delta, first)
    only_first = masks[0] & ~masks[1]
    kept = merged.delta[only_first] != 0
    assert torch.equal(merged.delta[only_first][kept], first[only_first][kept])


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


def test_what_a_prompt_reads_holds_while_it_is_continued(llama: CausalLM) -> None:
    system = Wise(llama, _with(steps=300, learning_rate=0.5))
    system.edit(records()[:1])
    prompt, target = PAIRS[0]
    num_tokens = len(system.score(PAIRS[:1])[0].token_ids)
    assert num_tokens > 1, "the second token is read by a later pass"
    (text,) = system.generate([prompt], num_tokens, [GREEDY])
    assert text.strip() == target


def test_reset_forgets_all_edits(llama: CausalLM) -> None:
    system = Wise(llama, LEARNS)
    mask, unedited = system.mask, system.score(PAIRS)
    system.edit(records()[:2])
    system.reset()
    assert system.score(PAIRS) == unedited
    assert torch.equal(system.mask, mask)
