"""Refines the continuous prompts that do not answer their own texts, by gradient steps. Ours.

RECIPE edits without a gradient, so an edit whose answer MLP_P cannot produce would be rejected. A
freely trained prompt reaches nearly any answer; from MLP_P's prompt, a few steps suffice. An edit
that MLP_P already answers keeps MLP_P's prompt, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

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
_CHECKED_AT_ONCE = 8192  # tokens
REFINED_AT_ONCE = 2048  # tokens, whose activations a gradient keeps
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
    least = torch.ones(len(prompts), device=prompts.device)
    first = [rows[:_CHECKED] for rows in texts_of]
    with torch.no_grad():
        for part in _parts(range(len(prompts)), first, shape, _CHECKED_AT_ONCE):
            texts = [first[number] for number in part]
            least[part] = _answered(llm, prompts[part], texts, shape)[0]
    is_open = (least < sure).nonzero()[:, 0].tolist()
    for part in _parts(is_open, texts_of, shape, REFINED_AT_ONCE):
        texts = [texts_of[number] for number in part]
        result[part] = _refined(llm, prompts[part], texts, lane_model, steps, sure)
    if not bool(torch.isfinite(result).all()):
        raise FitError("a refined prompt is not finite; refine in fewer steps.")
    return result


def _parts(
    numbers: Iterable[int],
    texts_of: Sequence[Sequence[TokenRow]],
    shape: LaneModelShape,
    most: int,
) -> Iterator[list[int]]:
    """Edits whose padded texts have at most so many tokens together, or one edit with more."""
    part: list[int] = []
    num_rows = longest = 0
    for number in numbers:
        num_rows += len(texts_of[number])
        longest = max(longest, *(len(row.ids) + shape.num_prompt for row in texts_of[number]))
        if part and num_rows * longest > most:
            yield part
            part, num_rows = [], len(texts_of[number])
            longest = max(len(row.ids) + shape.num_prompt for row in texts_of[number])
        part.append(number)
    if part:
        yield part


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
