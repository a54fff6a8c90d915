"""What the model itself says after texts, for fits that shall leave it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, positions

AT_ONCE = 64  # texts of similar length that are read together
_NUM_KEPT = 32  # tokens whose likelihood is kept each by itself; the others' is kept as a sum


@dataclass(frozen=True, eq=False, slots=True)
class NextTokens:
    """The likeliest tokens at each of m places, and the first token of the answer before it.

    Attributes:
        ids: (m, k) int64.
        logs: (m, k) fp32, their log-likelihoods.
    """

    ids: Tensor
    logs: Tensor

    def divergence(self, logits: Tensor, places: Tensor) -> Tensor:
        """Σ_i p_i·log(p_i / q_i) over k tokens and all others together, (n,) nats.

        It is at most KL(p ‖ q). The answer's token is one of the k even where it is unlikely: a
        model that says it again is what the divergence must not miss.

        Args:
            logits: (n, V), of q.
            places: (n,) int64.
        """
        p = _with_rest(self.logs[places])
        q = _with_rest(logits.log_softmax(-1).gather(1, self.ids[places]))
        return (p.exp() * (p - q)).sum(-1)


def _with_rest(logs: Tensor) -> Tensor:
    """Log-likelihoods (m, k) with that of all other tokens, (m, k + 1)."""
    rest = (1 - logs.exp().sum(-1, keepdim=True)).clamp(min=1e-6)
    return torch.cat([logs, rest.log()], dim=-1)


@dataclass(frozen=True, eq=False, slots=True)
class Continued:
    """Texts with what the model says after them.

    Attributes:
        texts: n texts; what follows a target is sampled at temperature 1.
        places: (m, 3) int64: text, column, and number of each place where the model predicts what
            follows, up to the end of its text.
        next_tokens: at these places.
        hidden: the input of a block, (n, T, d) fp32, padded on the right.
    """

    texts: list[TokenRow]
    places: Tensor
    next_tokens: NextTokens
    hidden: Tensor


@torch.no_grad()
def continued(
    model: CausalLM, texts: Sequence[TokenRow], num_tokens: int, *, block: int, seed: int
) -> Continued:
    """Lets the model continue texts, by at most `num_tokens` − 1 tokens each.

    Args:
        model: carries no edit that the continuations must not contain.
        texts: n texts with targets.
        num_tokens: maximum number of predictions after each text.
        block: whose input is returned.
        seed: of the draws.
    """
    rng = torch.Generator().manual_seed(seed % 2**63)
    order = torch.tensor([len(text.ids) for text in texts]).argsort(stable=True)
    rows = list(texts)
    width = max(len(text.ids) for text in texts) + num_tokens - 1
    hidden = torch.zeros(len(texts), width, model.d, device=model.device)
    places, next_tokens = [], []
    for numbers in order.split(AT_ONCE):
        part = _continued(model, texts, numbers, num_tokens, block, rng)
        hidden[numbers, : part.hidden.shape[1]] = part.hidden
        for number, row in zip(numbers.tolist(), part.texts, strict=True):
            rows[number] = row
        places.append(part.places)
        next_tokens.append(part.next_tokens)
    found = torch.cat(places)
    counted = torch.arange(len(found), device=found.device)[:, None]
    ids = torch.cat([part.ids for part in next_tokens])
    logs = torch.cat([part.logs for part in next_tokens])
    return Continued(rows, torch.cat([found, counted], dim=1), NextTokens(ids, logs), hidden)


def _continued(
    model: CausalLM,
    all_texts: Sequence[TokenRow],
    numbers: Tensor,
    num_tokens: int,
    block: int,
    rng: torch.Generator,
) -> Continued:
    """As `continued`, for the texts with these numbers, in their order; places are not counted."""
    texts = [all_texts[number] for number in numbers.tolist()]
    lengths = torch.tensor([len(text.ids) for text in texts])
    width = int(lengths.max())
    entered, likely, drawn = _read(model, texts, num_tokens, block, rng)
    num_steps = drawn.shape[1]
    is_end = torch.isin(drawn, torch.tensor(model.end_ids, dtype=torch.int64))
    said = (~is_end).long().cumprod(1).sum(1)  # tokens in front of the first end
    num_after = said.clamp(max=num_steps - 1)  # the last draw is not read
    rows = [
        replace(text, ids=(*text.ids, *tokens[:more]), num_after=more)
        for text, tokens, more in zip(texts, drawn.tolist(), num_after.tolist(), strict=True)
    ]
    column = torch.arange(entered.shape[1]) + (width - lengths)[:, None]
    column = column.clamp(max=entered.shape[1] - 1).to(entered.device)
    hidden = entered.gather(1, column[..., None].expand(-1, -1, entered.shape[2]))
    row, step = (torch.arange(num_steps) <= num_after[:, None]).nonzero().unbind(1)
    places = torch.stack([numbers[row], lengths[row] - 1 + step], dim=1).to(model.device)
    at = row.to(model.device), step.to(model.device)
    return Continued(rows, places, NextTokens(likely[0][at], likely[1][at]), hidden)


def _read(
    model: CausalLM, texts: Sequence[TokenRow], num_tokens: int, block: int, rng: torch.Generator
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Reads texts, padded on the left, and then the tokens that it draws.

    Returns:
        The block's input of all tokens, (B, T, d) fp32; ids and log-likelihoods of the likeliest
        tokens at each of S steps, (B, S, k) each; and the tokens drawn, (B, S) on the CPU.
    """
    width = max(len(text.ids) for text in texts)
    padding = [width - len(text.ids) for text in texts]
    ids = torch.tensor([[model.pad_id] * p + [*t.ids] for p, t in zip(padding, texts, strict=True)])
    mask = torch.tensor([[0] * p + [1] * (width - p) for p in padding], device=model.device)
    ids, place, cache = ids.to(model.device), positions(mask), DynamicCache()
    answers = torch.tensor([[t.ids[t.target_end - t.num_target]] for t in texts]).to(model.device)
    entered: list[Tensor] = []
    kept, logs, drawn = [], [], []

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        entered.append(args[0].float())

    handle = model.blocks[block].register_forward_pre_hook(note)
    try:
        for _ in range(max(1, min(num_tokens, model.max_positions - width + 1))):
            hidden = model.body(
                input_ids=ids,
                attention_mask=mask,
                position_ids=place,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            likely = model.head(hidden).float().log_softmax(-1)
            kept.append(_kept(likely, answers))
            logs.append(likely.gather(1, kept[-1]))
            ids = _drawn(likely, rng)
            drawn.append(ids.cpu())
            mask = torch.cat([mask, mask.new_ones(len(texts), 1)], dim=1)
            place = place[:, -1:] + 1
    finally:
        handle.remove()
    steps = torch.stack(kept, dim=1), torch.stack(logs, dim=1)
    return torch.cat(entered, dim=1), steps, torch.cat(drawn, dim=1)


def _drawn(likely: Tensor, rng: torch.Generator) -> Tensor:
    """A token of each row, (B, 1) int64, drawn by likelihood: where the CDF passes a draw."""
    # In fp32, a sum over a large vocabulary would lose its unlikely tokens.
    cumulated = likely.exp().double().cumsum(-1)
    draws = torch.rand(len(likely), 1, generator=rng, dtype=torch.float64).to(likely.device)
    # Rounding can put a draw at the very end.
    found = torch.searchsorted(cumulated, draws * cumulated[:, -1:], right=True)
    return found.clamp(max=likely.shape[1] - 1)


def _kept(likely: Tensor, answers: Tensor) -> Tensor:
    """Ids of the likeliest tokens, (B, k), among them the answers' own, (B, 1)."""
    first = likely.scatter(1, answers, torch.inf)
    return first.topk(min(_NUM_KEPT, likely.shape[-1])).indices
