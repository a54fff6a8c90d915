"""Text to token ids, with the places that editing needs: target tokens, last subject token.

All positions come from the tokenizer's character offsets on the whole text, never from tokenising
pieces: byte-pair merges across a seam would give ids that the model never sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from errata.editing.causal_lm import CausalLM
from errata.errors import InvalidEditError


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One tokenised text.

    Attributes:
        ids: token ids, with the special tokens that the tokenizer puts in front.
        num_target: how many ids at the end belong to the target.
        subject_index: index of the last subject token; −1 if none was asked for.
    """

    ids: tuple[int, ...]
    num_target: int = 0
    subject_index: int = -1


def join(prompt: str, target: str) -> str:
    """Prompt and target with exactly one blank between, unless one of them brings white space."""
    if not prompt or prompt[-1].isspace() or target[:1].isspace():
        return prompt + target
    return f"{prompt} {target}"


def tokenise(
    model: CausalLM, prompt: str, target: str = "", *, subject: str | None = None
) -> TokenRow:
    """Tokenises `prompt`, followed by `target` if there is one.

    Target tokens are those that end behind the prompt's last character; a token that straddles
    the seam therefore belongs to the target. Special tokens that the tokenizer appends are left
    out: the model shall go on from here.

    Args:
        model: gives tokenizer and longest sequence.
        prompt: what comes first.
        target: what shall follow; joined by `join`.
        subject: if given, `subject_index` is found in the prompt.

    Raises:
        InvalidEditError: no token, no target token, too long, or the subject is not in the prompt.
    """
    (encoded,) = _encoded(model, [join(prompt, target) if target else prompt])
    row = _row(model, prompt, target, encoded)
    if subject is None:
        return row
    last_char = subject_end(prompt, subject) - 1
    spans = enumerate(encoded.offsets)
    index = max((i for i, (a, b) in spans if a <= last_char < b), default=-1)
    if index < 0:
        raise InvalidEditError(
            f"subject {subject!r} ends in a character that the model's tokenizer drops; choose "
            "another end."
        )
    return replace(row, subject_index=index)


def tokenise_all(model: CausalLM, pairs: Sequence[tuple[str, str]]) -> list[TokenRow]:
    """`tokenise` of many prompts, each with its target, in one call of the tokenizer.

    Raises:
        InvalidEditError: as `tokenise`, of the first pair that has a fault.
    """
    texts = [join(prompt, target) if target else prompt for prompt, target in pairs]
    return [
        _row(model, prompt, target, encoded)
        for (prompt, target), encoded in zip(pairs, _encoded(model, texts), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Token ids of one text, and which characters each comes from."""

    ids: tuple[int, ...]
    offsets: Sequence[tuple[int, int]]


def _encoded(model: CausalLM, texts: Sequence[str]) -> list[_Encoded]:
    """Without the special tokens that the tokenizer appends."""
    if not texts:
        return []
    encoded = model.tokenizer(
        list(texts), return_offsets_mapping=True, return_special_tokens_mask=True
    )
    columns = (encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"])
    made = []
    for ids, offsets, special in zip(*columns, strict=True):
        size = len(ids)
        while size and special[size - 1]:
            size -= 1
        made.append(_Encoded(tuple(ids[:size]), list(offsets[:size])))
    return made


def _row(model: CausalLM, prompt: str, target: str, encoded: _Encoded) -> TokenRow:
    ids, size = encoded.ids, len(encoded.ids)
    if not ids:
        raise InvalidEditError("the prompt is empty; give the text to be continued.")
    if size > model.max_positions:
        raise InvalidEditError(
            f"prompt and target have {size:,} tokens; the model takes {model.max_positions:,}. "
            "Shorten them.",
            num_tokens=size,
            limit=model.max_positions,
        )
    num_target = sum(end > len(prompt) for _, end in encoded.offsets)
    if target and not num_target:
        raise InvalidEditError(f"target {target!r} has no token; give a visible target.")
    return TokenRow(ids, num_target)


def subject_end(prompt: str, subject: str) -> int:
    """Index behind the subject's last occurrence in the prompt.

    The last occurrence, because the model has read most of the prompt there, and because text put
    in front as context may mention the subject as well. Occurrences that stand alone as words go
    before those inside a longer word ("Lyon" in "Lyonnaise").

    Raises:
        InvalidEditError: the subject is empty or not in the prompt.
    """
    start = prompt.rfind(subject) if subject.strip() else -1
    if start < 0:
        raise InvalidEditError(
            f"subject {subject!r} does not occur in prompt {prompt!r}; use the prompt's spelling."
        )
    fallback = start + len(subject)
    while start >= 0:
        end = start + len(subject)
        before, after = prompt[:start][-1:], prompt[end:][:1]
        if not before.isalnum() and not after.isalnum():
            return end
        # rfind's bound is exclusive of matches that would end behind it
        start = prompt.rfind(subject, 0, end - 1)
    return fallback


def target_places(rows: Sequence[TokenRow]) -> list[tuple[int, int, int]]:
    """(row, column, id) of every target token: the token in `column` predicts `id`."""
    return [
        (number, column, row.ids[column + 1])
        for number, row in enumerate(rows)
        for column in range(len(row.ids) - row.num_target - 1, len(row.ids) - 1)
    ]


def pad_right(model: CausalLM, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pads id rows on the right.

    Returns:
        Ids and mask, both (B, T) int64 on the model's device; the mask is 1 on real tokens.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[model.pad_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids.to(model.device), mask.to(model.device)


def positions(mask: Tensor) -> Tensor:
    """Position ids (B, T) int64 for a mask padded on either side; padding gets position 0."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)
