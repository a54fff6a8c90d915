"""Whole-batch forward passes: greedy decoding and scoring, padded on the left.

Left padding puts every row's next token in the last column, so that a step is one slice of the
logits whatever the rows' lengths are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from errata.editing.causal_lm import CausalLM
from errata.editing.method import Attribution
from errata.editing.prompts import positions

Shaped = list[tuple[str, ...]]


def pad_left(model: CausalLM, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pads id rows on the left.

    Returns:
        Ids and mask, both (B, T) int64 on the model's device; the mask is 1 on real tokens.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*[model.pad_id] * (width - len(row)), *row] for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(model.device), mask.to(model.device)


@torch.inference_mode()
def greedy(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    attribute: Callable[[], Attribution] | None,
) -> Iterator[tuple[list[int], Shaped]]:
    """Yields, step by step, the next token of every row; the caller stops when it has enough.

    Args:
        model: the causal LM.
        prompts: B rows of token ids.
        attribute: names the edits that the prompts answer to; None if no edit is in force.

    Yields:
        (B,) next ids and, the same at every step, the edits that shaped each row.
    """
    ids, mask = pad_left(model, prompts)
    outputs, shaped = _prefill(model, ids, mask, mask, attribute, logits_to_keep=1)
    while True:
        next_ids = outputs.logits[:, -1].argmax(dim=-1)  # (B,); ties go to the lowest id
        yield next_ids.tolist(), shaped
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        outputs = model.model(
            input_ids=next_ids[:, None],
            attention_mask=mask,
            position_ids=positions(mask)[:, -1:],
            past_key_values=outputs.past_key_values,
            use_cache=True,
        )


@torch.inference_mode()
def score(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    attribute: Callable[[], Attribution] | None,
) -> tuple[list[list[float]], list[list[int]], Shaped]:
    """Log-probability and argmax at every token of each row's continuation.

    Returns:
        B lists of natural log-probabilities, B lists of argmax ids, and the edits that shaped
        each row, found on the prompt alone: a given continuation must not claim an edit.
    """
    rows = [[*p, *c] for p, c in zip(prompts, continuations, strict=True)]
    ids, mask = pad_left(model, rows)
    longest = max(len(c) for c in continuations)
    lengths = torch.tensor([len(c) for c in continuations], device=ids.device)
    from_end = torch.arange(ids.shape[1], 0, -1, device=ids.device)  # T … 1
    prompt_mask = mask * (from_end[None, :] > lengths[:, None])
    outputs, shaped = _prefill(model, ids, mask, prompt_mask, attribute, logits_to_keep=longest + 1)
    # The logits of column t predict column t + 1.
    log_p = outputs.logits[:, :-1].float().log_softmax(dim=-1)  # (B, longest, V)
    own = log_p.argmax(dim=-1)  # (B, longest)
    given = log_p.gather(-1, ids[:, -longest:, None]).squeeze(-1)  # (B, longest)
    kept = [len(c) for c in continuations]
    return (
        [row[-n:] for row, n in zip(given.tolist(), kept, strict=True)],
        [row[-n:] for row, n in zip(own.tolist(), kept, strict=True)],
        shaped,
    )


def _prefill(
    model: CausalLM,
    ids: Tensor,
    mask: Tensor,
    prompt_mask: Tensor,
    attribute: Callable[[], Attribution] | None,
    *,
    logits_to_keep: int,
) -> tuple[Any, Shaped]:
    def run() -> Any:
        return model.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )

    if attribute is None:
        return run(), [()] * len(ids)
    with attribute() as listening:
        outputs = run()
        return outputs, [tuple(edits) for edits in listening.edits(prompt_mask)]
