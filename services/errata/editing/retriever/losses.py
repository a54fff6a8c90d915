"""RECIPE's five losses: two contrastive ones on representations, three on the LLM's answers.

The candidates of a batch are the keys of its facts and the sentinel. The facts of a batch must
differ, because every other key counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from errata.editing.effects.hooks import PlanHooks
from errata.editing.effects.plan import BatchPlan
from errata.editing.effects.prefix import PrefixBatch
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, pad_right, positions, target_places


def contrastive(
    queries: Tensor,
    candidates: Tensor,
    wanted: Tensor,
    *,
    scale: float | Tensor,
    hidden: Tensor | None = None,
    hinge: float | None = None,
) -> Tensor:
    """Mean of −log softmax_j(s·r̃_q·r_j) at the correct candidate (InfoNCE).

    Args:
        queries: (n, d_r).
        candidates: (m, d_r).
        wanted: (n,) int64, the correct candidate of each query.
        scale: s; 1 in the paper, 1/√d_r in the authors' code, learned in ours.
        hidden: (n, m) bool, candidates to exclude; None excludes none.
        hinge: excludes queries whose correct candidate is at least this many times as probable as
            the next one (the authors' code: 1.2); None includes all.

    Returns:
        A scalar in nats; 0 if every query is excluded.
    """
    scores = scale * queries @ candidates.T
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return _mean_of_open(scores, wanted, hinge)


def answer_loss(
    logits: Tensor, labels: Tensor, hinge: float | None = None, num_texts: int | None = None
) -> Tensor:
    """Reliability or generality: cross-entropy (nats) of the target's tokens.

    Args:
        logits: (places, V).
        labels: (places,) int64.
        hinge: as in `contrastive`.
        num_texts: None for the mean over all tokens; otherwise the number of answers, for the mean
            of −log P(answer) over them (equations 10 and 11).
    """
    mean = _mean_of_open(logits, labels, hinge)
    return mean if num_texts is None else mean * (len(labels) / num_texts)


def locality_loss(base: Tensor, prompted: Tensor, texts: Texts | None = None) -> Tensor:
    """KL(base ‖ prompted) in nats; both (places, V) logits.

    Args:
        base: of the LLM without a continuous prompt.
        prompted: with one.
        texts: None for the mean over places; otherwise the places' texts, for the mean over places
            of each text, and then over texts (equation 12).
    """
    each = kl_div(
        prompted.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return each.mean() if texts is None else texts.per_text(each).mean()


def _mean_of_open(scores: Tensor, wanted: Tensor, hinge: float | None) -> Tensor:
    each = cross_entropy(scores, wanted, reduction="none")
    if hinge is None:
        return each.mean()
    log_p = scores.detach().log_softmax(-1)
    right = log_p.gather(-1, wanted[:, None])[:, 0]
    next_best = log_p.scatter(-1, wanted[:, None], -torch.inf).amax(-1)
    is_open = (right - next_best).exp() < hinge
    return (each * is_open).sum() / is_open.sum().clamp(min=1)


@dataclass(frozen=True, eq=False, slots=True)
class Texts:
    """Tokenised texts, padded on the right, and the positions that predict their targets.

    Attributes:
        ids: (n, T) int64.
        mask: (n, T) int64.
        rows, columns: (places,) int64; the token at each position predicts its label.
        labels: (places,) int64.
        after: (n, 1) int64, how many tokens come before a continuous prompt.
    """

    ids: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor
    after: Tensor

    @classmethod
    def of(cls, llm: CausalLM, texts: Sequence[TokenRow], after: int) -> Texts:
        """Pads rows of `tokenise`, each with a target.

        Args:
            llm: provides padding and device.
            texts: n rows.
            after: how many tokens come before a continuous prompt; in a conversation, at least
                those before the user's words.
        """
        ids, mask = pad_right(llm, [text.ids for text in texts])
        at = torch.tensor(target_places(texts), device=llm.device).T
        places = torch.tensor([max(after, text.said_index) for text in texts], device=llm.device)
        return cls(ids, mask, at[0], at[1], at[2], places[:, None])

    def per_text(self, values: Tensor) -> Tensor:
        """Means (n,) of values (places,) over the positions of each text."""
        n = len(self.ids)
        total = torch.zeros(n, device=values.device).index_add(0, self.rows, values.float())
        return total / self.rows.bincount(minlength=n).clamp(min=1)


def answer_logits(
    llm: CausalLM,
    texts: Texts,
    prompts: Tensor | None,
    deep: Sequence[int] = (),
) -> Tensor:
    """Logits (places, V) that predict the targets, with a continuous prompt in each row.

    The LLM reads [p_k; embed(q)] through the same hooks as in serving. Padding follows the text,
    where it does not affect a causal model.

    Args:
        llm: frozen; gradients flow to `prompts`.
        texts: n rows.
        prompts: (n, S, l, d); None for the base model's logits.
        deep: its S − 1 deep layers.
    """
    ids, mask, columns = texts.ids, texts.mask, texts.columns
    plan = BatchPlan()
    if prompts is not None:
        num_rows, _, length, _ = prompts.shape
        mask = torch.cat([mask.new_ones(num_rows, length), mask], dim=1)
        columns = columns + length
        offsets = torch.arange(mask.shape[1], device=ids.device) - texts.after  # (n, T + l)
        is_prefix = (offsets >= 0) & (offsets < length)
        index = torch.where(offsets < 0, offsets, offsets - length) + texts.after
        ids = ids.gather(1, index.clamp(0, ids.shape[1] - 1))
        rows = torch.arange(num_rows, device=ids.device)[:, None]
        spread = prompts.to(llm.dtype)[rows, :, offsets.clamp(0, length - 1)]  # (n, T + l, S, d)
        embeddings, *added = spread.unbind(2)
        prefixes = PrefixBatch(is_prefix, embeddings, dict(zip(deep, added, strict=True)))
        plan = BatchPlan((prefixes,))
    with PlanHooks.of(llm).applied(plan):
        output = llm.body(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        )
    logits: Tensor = llm.head(output.last_hidden_state[texts.rows, columns])
    return logits.float()
