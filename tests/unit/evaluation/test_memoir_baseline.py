"""The MEMOIR baseline: masks, what an edit trains, and which prompts read the memory."""

from __future__ import annotations

import torch
from records import records

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.sampling import GREEDY
from errata.evaluation.baselines.memoir import Memoir, MemoirConfig, TopHash

PAIRS = [(record.prompt, record.target_new) for record in records()]


def _ids(model: CausalLM) -> list[tuple[int, ...]]:
    return [tokenise(model, prompt).ids for prompt, _ in PAIRS]


def test_a_mask_has_the_permuted_places_of_the_largest_magnitudes() -> None:
    hashed = TopHash(torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0, 1.0]), 2, seed=3)
    (mask,) = hashed.masks(torch.tensor([[0.1, -3.0, 5.0, 0.2, 2.0, 1.0]]))
    places = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    wanted = torch.zeros(6, dtype=torch.bool)
    wanted[places[[1, 4]]] = True  # what all texts have is no mark of this one
    assert torch.equal(mask, wanted)


def test_a_masks_size_is_fixed_and_padding_does_not_matter(llama: CausalLM) -> None:
    system = Memoir(llama, MemoirConfig(share=0.25))
    prompts = [*_ids(llama), _ids(llama)[0] * 2]
    together = system.hash.masks(system._means(prompts))
    assert together.sum(-1).tolist() == [round(0.25 * llama.d_ff)] * len(prompts)
    for prompt, mask in zip(prompts, together, strict=True):
        (alone,) = system.hash.masks(system._means([prompt]))
        assert torch.equal(alone, mask)


def test_an_edit_trains_the_columns_of_its_mask_alone(llama: CausalLM) -> None:
    system = Memoir(llama, MemoirConfig(share=0.1))
    system.edit(records()[:1])
    (mask,) = system.masks
    changed = system.memory.abs().sum(0) > 0
    assert changed[mask].any()
    assert not changed[~mask].any()
    before = system.memory.clone()
    system.edit(records()[1:2])
    kept = mask & ~system.masks[1]
    assert kept.any()
    assert torch.equal(system.memory[:, kept], before[:, kept])


def test_an_edit_is_learned_and_what_matches_none_is_the_base_models_bit_for_bit(
    llama: CausalLM,
) -> None:
    other = [("Nokia and Toyota play", "football"), ("The tower of Pisa is", "blue")]
    config = MemoirConfig(layer=1, share=0.5, threshold=1.0, steps=50, learning_rate=30.0)
    system = Memoir(llama, config)
    (before,), unknown = system.score(PAIRS[:1]), system.score(other)
    system.edit(records()[:1])
    (after,) = system.score(PAIRS[:1])
    assert after.mean_log_prob > before.mean_log_prob + 2.0
    assert system.score(other) == unknown


def test_the_nearest_edits_mask_is_read_if_enough_of_it_is_common(llama: CausalLM) -> None:
    system = Memoir(llama, MemoirConfig(share=0.25, threshold=0.5))
    k = system.hash.num_active
    first, second = torch.zeros(2, llama.d_ff, dtype=torch.bool)
    first[:k], second[k : 2 * k] = True, True
    system.masks = torch.stack([first, second])
    asked = torch.zeros(2, llama.d_ff, dtype=torch.bool)
    asked[0, k // 4 : k // 4 + k] = True  # three quarters of it are the first's, one the second's
    asked[1, 2 * k - k // 4 : 3 * k - k // 4] = True  # a quarter of it is the second's
    found = system.matched(asked)
    assert torch.equal(found[0].bool(), first)
    assert not found[1].any()


def test_what_a_prompt_reads_holds_while_it_is_continued(llama: CausalLM) -> None:
    system = Memoir(llama, MemoirConfig(layer=1, share=0.5, steps=100, learning_rate=30.0))
    system.edit(records()[:1])
    prompt, target = PAIRS[0]
    num_tokens = len(system.score(PAIRS[:1])[0].token_ids)
    assert num_tokens > 1, "the second token is read by a later pass"
    (text,) = system.generate([prompt], num_tokens, [GREEDY])
    assert text.strip() == target
