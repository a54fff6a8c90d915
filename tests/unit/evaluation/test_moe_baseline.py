"""The mixture-of-experts baseline: its sum, what a batch trains, and what its router reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from records import records

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.sampling import GREEDY
from errata.evaluation.baselines.moe import Mixture, MoeAdaptor, MoeConfig

PAIRS = [(record.prompt, record.target_new) for record in records()]


def test_the_output_is_the_gated_sum_of_the_nearest_experts() -> None:
    generator = torch.Generator().manual_seed(0)
    mixture = Mixture(5, 3, torch.device("cpu"))
    mixture.add(torch.randn(4, 5, generator=generator), 2, generator)
    mixture.up = torch.randn(4, 3, 2, generator=generator)
    hidden = torch.randn(2, 6, 5, generator=generator)
    made = mixture.output(hidden, hidden, 2)
    for row in range(2):
        for place in range(6):
            h = hidden[row, place]
            gates = (mixture.keys @ h).softmax(0)
            chosen = gates.argsort(descending=True)[:2]
            wanted = sum(gates[i] * mixture.up[i] @ (mixture.down[i] @ h) for i in chosen)
            torch.testing.assert_close(made[row, place], wanted)


@pytest.mark.parametrize("granularity", ["token", "sentence", "last"])
def test_every_granularity_learns(llama: CausalLM, granularity: str) -> None:
    system = MoeAdaptor(llama, MoeConfig.model_validate({"granularity": granularity, "rank": 8}))
    before = sum(item.mean_log_prob for item in system.score(PAIRS))
    system.edit(records())
    assert sum(item.mean_log_prob for item in system.score(PAIRS)) > before + 1.0


def test_fresh_experts_are_frozen_and_conventional_ones_are_not(llama: CausalLM) -> None:
    for experts in ("fresh", "shared"):
        config = MoeConfig.model_validate({"experts": experts, "rank": 4, "steps": 8})
        system = MoeAdaptor(llama, config)
        system.edit(records()[:2])
        number = len(system.mixture.keys)
        first = system.mixture.keys.clone(), system.mixture.down.clone(), system.mixture.up.clone()
        system.edit(records()[2:])
        now = system.mixture.keys, system.mixture.down, system.mixture.up
        kept = [torch.equal(old, new[:number]) for old, new in zip(first, now, strict=True)]
        assert kept == [experts == "fresh"] * 3
        assert len(system.mixture.keys) == (2 if experts == "fresh" else config.num_experts)


def test_a_fresh_experts_key_is_the_mean_of_the_prompts_tokens_without_padding(
    llama: CausalLM,
) -> None:
    config = MoeConfig.model_validate({"experts": "fresh", "rank": 2, "steps": 1})
    long = replace(records()[1], prompt="You know. " * 3 + records()[1].prompt)
    batch = [records()[0], long]
    seen: list[torch.Tensor] = []
    system = MoeAdaptor(llama, config)
    layer = llama.num_layers * 18 // 32
    handle = llama.down(layer).register_forward_pre_hook(
        lambda _, args: seen.append(llama.by_row(args[0])[0].float())
    )
    with torch.no_grad():
        for record in batch:
            llama.model(torch.tensor([tokenise(llama, record.prompt).ids]))
    handle.remove()
    assert len(seen[0]) < len(seen[1]), "the batch is padded"
    mean = torch.cat(seen).mean(0)
    key = system._centroid(batch)
    torch.testing.assert_close(key, torch.nn.functional.normalize(mean, dim=0))


@pytest.mark.parametrize("granularity", ["sentence", "last"])
def test_the_route_of_a_prompt_holds_while_it_is_continued(
    llama: CausalLM, granularity: str
) -> None:
    system = MoeAdaptor(
        llama, MoeConfig.model_validate({"granularity": granularity, "experts": "fresh"})
    )
    for record in records():
        system.edit([record])
    alone, *_ = system.score(PAIRS[:1])
    padded, *_ = system.score([PAIRS[0], ("A much longer prompt about Lyon and Pisa", "blue blue")])
    assert alone.argmax_ids == padded.argmax_ids
    (text,) = system.generate([PAIRS[0][0]], len(alone.token_ids), [GREEDY])
    assert (text.strip() == PAIRS[0][1]) == (alone.argmax_ids == alone.token_ids)
