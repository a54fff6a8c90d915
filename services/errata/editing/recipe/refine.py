"""Refines the continuous prompts that do not answer their own texts, by gradient steps. Ours.

RECIPE edits without a gradient, so an edit whose answer MLP_P cannot produce would be rejected. A
freely trained prompt reaches nearly any answer; from MLP_P's prompt, a few steps suffice. An edit
that MLP_P already answers keeps MLP_P's prompt, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training, has_fast_bf16
from errata.editing.model.prompts import TokenRow
from errata.editing.retriever.heads import LaneModelShape
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.losses import Texts, answer_logits
from errata.errors import FitError

_LEARNING_RATE = 0.2  # in units of the spread of the LLM's own vectors
_NEARNESS = 0.01  # weight of the squared distance from MLP_P's prompt, in the same units
_CHECKED_AT_ONCE = 64  # edits
REFINED_AT_ONCE = 16  # edits; a gradient keeps the activations of all their texts
_CHECKED = 2  # texts of an edit that decide whether it is refined at all
SURE = 0.5  # a probability that no other token can reach


def refined(
    llm: CausalLM,
    prompts: Tensor,
    texts_of: Sequence[Sequence[TokenRow]],
    lane_model: LaneModel,
    steps: int,
    sure: float = SURE,
) -> Tensor:
    """Prompts after which the LLM gives each target token at least the probability `sure`.

    Edits whose first texts are not answered so are refined: Adam minimises the mean NLL of the
    target over all texts of the edit, plus the distance from MLP_P's prompt. An edit's prompt is
    final as soon as all its texts are answered. The LLM and the lane model stay unchanged.

    Args:
        llm: frozen.
        prompts: p_k, (n, S, l, d) fp32.
        texts_of: the texts of each edit, with their targets; its own prompt first.
        lane_model: that made the prompts.
        steps: the most steps for an edit.
        sure: a probability; above 1, all edits take all steps.

    Returns:
        (n, S, l, d) fp32.

    Raises:
        FitError: a prompt is not finite.
    """
    result, shape = prompts.clone(), lane_model.shape
    first = [rows[:_CHECKED] for rows in texts_of]
    with torch.no_grad():
        parts = [
            _answered(llm, prompts[start:end], first[start:end], shape)[0]
            for start, end in _parts(len(prompts), _CHECKED_AT_ONCE)
        ]
    is_open = (torch.cat(parts) < sure).nonzero()[:, 0]
    for start, end in _parts(len(is_open), REFINED_AT_ONCE):
        rows = is_open[start:end]
        texts = [texts_of[number] for number in rows.tolist()]
        result[rows] = _refined(llm, prompts[rows], texts, lane_model, steps, sure)
    if not bool(torch.isfinite(result).all()):
        raise FitError("a refined prompt is not finite; refine in fewer steps.")
    return result


def _parts(number: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, number)) for start in range(0, number, size)]


def _refined(
    llm: CausalLM,
    prompts: Tensor,
    texts_of: Sequence[Sequence[TokenRow]],
    lane_model: LaneModel,
    steps: int,
    sure: float,
) -> Tensor:
    spread, shape = lane_model.prompt_mlp.scale, lane_model.shape
    begin = prompts / spread
    free = begin.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=_LEARNING_RATE)
    final = prompts.clone()
    is_open = torch.arange(len(prompts), device=prompts.device)
    for _ in range(steps):
        texts = [texts_of[number] for number in is_open.tolist()]
        with torch.enable_grad():
            least, losses = _answered(llm, (spread * free)[is_open], texts, shape)
            away = (free - begin)[is_open].square().mean(dim=(1, 2, 3))
            # A sum of terms of one edit each: an edit's steps do not depend on its batch.
            loss = (losses + _NEARNESS * away).sum()
        still = least < sure
        final[is_open] = (spread * free).detach()[is_open]
        is_open = is_open[still]
        if not len(is_open):
            return final
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    final[is_open] = (spread * free).detach()[is_open]
    return final


def _answered(
    llm: CausalLM, prompts: Tensor, texts_of: Sequence[Sequence[TokenRow]], shape: LaneModelShape
) -> tuple[Tensor, Tensor]:
    """The least probability of a target token, and the mean NLL (nats), of each edit; both (n,)."""
    n, device = len(prompts), prompts.device
    owners = [number for number, rows in enumerate(texts_of) for _ in rows]
    texts = Texts.of(llm, [row for rows in texts_of for row in rows], shape.after)
    owner = torch.tensor(owners, device=device)
    with fast_training(device, bf16=has_fast_bf16(device)):
        logits = answer_logits(llm, texts, prompts[owner], shape.deep)
    nll = cross_entropy(logits, texts.labels, reduction="none")
    of_edit = owner[texts.rows]
    most = torch.full((n,), -math.inf, device=device).scatter_reduce(
        0, of_edit, nll.detach(), "amax"
    )
    total = torch.zeros(n, device=device).index_add(0, of_edit, nll)
    return (-most).exp(), total / of_edit.bincount(minlength=n)
