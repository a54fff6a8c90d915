"""Teacher-forced scores of (prompt, target) pairs, whole batches at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.causal_lm import CausalLM
from errata.editing.prompts import pad_right, positions, tokenise
from errata.errors import InvalidRequestError

_MAX_CELLS = 2048  # tokens of a padded batch, which bounds memory


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of n pairs.

    Attributes:
        log_prob: mean log-probability of the target's tokens, (n,) fp32, in nats.
        accuracy: share of target tokens that are the argmax, (n,) fp32.
        argmax: for each pair, the token ids that are likeliest at the target's positions.
    """

    log_prob: Tensor
    accuracy: Tensor
    argmax: list[tuple[int, ...]]


@torch.no_grad()
def score_targets(model: CausalLM, pairs: Sequence[tuple[str, str]]) -> Scores:
    """Scores targets under teacher forcing.

    Raises:
        InvalidEditError: a text is too long or a target has no token.
    """
    rows = [tokenise(model, prompt, target) for prompt, target in pairs]
    log_prob, accuracy = torch.zeros(len(rows)), torch.zeros(len(rows))
    argmax: list[tuple[int, ...]] = [()] * len(rows)
    for chunk in _chunks([row.ids for row in rows]):
        batch = [rows[i] for i in chunk]
        labels = torch.tensor([id_ for row in batch for id_ in row.ids[-row.num_target :]])
        # The position before a token predicts it.
        spans = [(len(row.ids) - row.num_target - 1, len(row.ids) - 1) for row in batch]
        scores = _logits(model, [row.ids for row in batch], spans).log_softmax(-1)
        best = scores.argmax(-1)
        picked = scores.gather(-1, labels[:, None])[:, 0]
        end = 0
        for i, row in zip(chunk, batch, strict=True):
            part = slice(end, end + row.num_target)
            log_prob[i] = picked[part].mean()
            accuracy[i] = (best[part] == labels[part]).float().mean()
            argmax[i] = tuple(best[part].tolist())
            end += row.num_target
    return Scores(log_prob, accuracy, argmax)


@torch.no_grad()
def perplexity(model: CausalLM, text: Iterable[str]) -> float:
    """exp of the mean NLL over all tokens of the paragraphs but each one's first.

    Paragraphs longer than the model's context are cut.

    Raises:
        InvalidRequestError: the text has no token to predict.
    """
    tokenizer = model.tokenizer
    rows = [
        tuple(tokenizer(item, truncation=True, max_length=model.max_positions)["input_ids"])
        for item in text
    ]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise InvalidRequestError("the text for perplexity is empty; give paragraphs.")
    total, count = 0.0, 0
    for chunk in _chunks(rows):
        batch = [rows[i] for i in chunk]
        labels = torch.tensor([id_ for row in batch for id_ in row[1:]])
        logits = _logits(model, batch, [(0, len(row) - 1) for row in batch])
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return float(torch.tensor(total / count).exp())


def _logits(
    model: CausalLM, rows: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]
) -> Tensor:
    """Logits of the columns `start` … `end` − 1 of each row, row after row, on the CPU."""
    ids, mask = pad_right(model, rows)
    place = positions(mask)
    body = model.body(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False)
    hidden: Tensor = body.last_hidden_state
    parts = [hidden[i, start:end] for i, (start, end) in enumerate(spans)]
    logits: Tensor = model.head(torch.cat(parts))  # most columns need none
    return logits.float().cpu()


def _chunks(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of rows, grouped by similar length so that little is padded."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    chunks: list[list[int]] = [[]]
    for i in order:
        if chunks[-1] and (len(chunks[-1]) + 1) * len(rows[i]) > _MAX_CELLS:
            chunks.append([])
        chunks[-1].append(i)
    return [chunk for chunk in chunks if chunk]
