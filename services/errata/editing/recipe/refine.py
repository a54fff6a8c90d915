"""Refines an edit's own continuous prompt by gradient steps, if MLP_P's is not enough. Ours.

RECIPE edits without a gradient, so an edit that fails its check would be rejected. A freely trained
prompt reaches nearly any answer; starting from MLP_P's prompt, a few steps suffice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training, has_fast_bf16
from errata.editing.model.prompts import TokenRow
from errata.editing.retriever.heads import LaneModelShape
from errata.editing.retriever.losses import Texts, answer_logits, answer_loss
from errata.errors import FitError

_LEARNING_RATE = 0.1  # in units of the prompts' spread
_CHUNK = 64  # edits whose prompts are refined together


def refined(
    llm: CausalLM,
    prompts: Tensor,
    texts_of: Sequence[Sequence[TokenRow]],
    shape: LaneModelShape,
    steps: int,
) -> Tensor:
    """Prompts after which the LLM gives each edit's target a higher probability.

    Adam minimises the mean NLL of the targets over all texts of an edit. It trains only the prompt;
    the LLM and the lane model stay unchanged.

    Args:
        llm: frozen.
        prompts: p_k, (n, S, l, d) fp32.
        texts_of: the texts of each edit, with their targets.
        shape: of the lane model.
        steps: number of Adam's steps.

    Returns:
        (n, S, l, d) fp32.

    Raises:
        FitError: a prompt is not finite.
    """
    parts = [
        _refined(llm, prompts[i : i + _CHUNK], texts_of[i : i + _CHUNK], shape, steps)
        for i in range(0, len(prompts), _CHUNK)
    ]
    result = torch.cat(parts)
    if not bool(torch.isfinite(result).all()):
        raise FitError("a refined prompt is not finite; refine in fewer steps.")
    return result


def _refined(
    llm: CausalLM,
    prompts: Tensor,
    texts_of: Sequence[Sequence[TokenRow]],
    shape: LaneModelShape,
    steps: int,
) -> Tensor:
    owners = [number for number, texts in enumerate(texts_of) for _ in texts]
    owner = torch.tensor(owners, device=prompts.device)
    texts = Texts.of(llm, [row for rows in texts_of for row in rows], shape.after)
    # Units of each prompt's own spread per layer, so that steps do not depend on other edits.
    spread = prompts.std(dim=(2, 3), keepdim=True)
    free = (prompts / spread).detach().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=_LEARNING_RATE)
    bf16 = has_fast_bf16(prompts.device)
    for _ in range(steps):
        with torch.enable_grad(), fast_training(prompts.device, bf16=bf16):
            text_prompts = (spread * free)[owner]
            logits = answer_logits(llm, texts, text_prompts, shape.deep)
            loss = answer_loss(logits, texts.labels, None)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return (spread * free).detach()
