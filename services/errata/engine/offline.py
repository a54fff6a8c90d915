"""Continuations and scores of a batch of prompts, without the thread of an engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine.runner import Runner
from errata.engine.sampling import GREEDY, Sampling


@torch.inference_mode()
def generate(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    sampling: Sequence[Sampling] | None = None,
    plans: Sequence[RowPlan] | None = None,
) -> list[tuple[int, ...]]:
    """The next `num_tokens` ids of every prompt; does not stop at the end of text.

    Args:
        model: used in its current state.
        prompts: token ids; one pass reads them all.
        num_tokens: at least one.
        sampling: for each prompt; greedy if None, with ties to the lowest id.
        plans: for each prompt; the base model for all if None.
    """
    given = [BASE] * len(prompts) if plans is None else plans
    sizes = [len(prompt) + plan.num_positions for prompt, plan in zip(prompts, given, strict=True)]
    runner = Runner(model, len(prompts), max(sizes) + num_tokens)
    for row, (prompt, plan) in enumerate(zip(prompts, given, strict=True)):
        runner.put(row, prompt, plan, GREEDY if sampling is None else sampling[row])
    made = [runner.append(0, runner.prefill(0, sizes, None).logits)]
    for _ in range(num_tokens - 1):
        made.append(runner.append(0, runner.step(0, len(prompts))))
    return [tuple(row) for row in torch.stack(made, dim=1).tolist()]


def write(model: CausalLM, num_texts: int, num_tokens: int, seed: int) -> list[tuple[int, ...]]:
    """Token ids of texts that the model writes at temperature 1, in its current state."""
    tokenizer = model.tokenizer
    start = next(
        (x for x in (tokenizer.bos_token_id, tokenizer.eos_token_id) if x is not None),
        model.pad_id,
    )
    sampling = [Sampling(temperature=1.0, seed=seed + number) for number in range(num_texts)]
    return generate(model, [[start]] * num_texts, num_tokens, sampling)


@torch.inference_mode()
def next_token(model: CausalLM, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Natural log-probabilities of every token after each prompt, (B, V) fp32.

    Args:
        model: used in its current state.
        prompts: token ids; one pass reads them all.
    """
    sizes = [len(prompt) for prompt in prompts]
    runner = Runner(model, len(prompts), max(sizes) + 1)
    for row, prompt in enumerate(prompts):
        runner.put(row, prompt, BASE, GREEDY)
    return torch.log_softmax(runner.prefill(0, sizes, None).logits.float(), dim=-1)


@torch.inference_mode()
def score(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    plans: Sequence[RowPlan] | None = None,
) -> tuple[list[list[float]], list[list[int]]]:
    """Natural log-probability and argmax id at every token of each continuation."""
    runner = Runner(model, 1, 1)
    given = [BASE] * len(prompts) if plans is None else plans
    log_p, own, _ = runner.score(prompts, continuations, given, None)
    return log_p, own
