"""Tokenises texts and finds the positions that editing needs: target tokens, last subject token.

A prompt has the same ids in a fit, in a check and in a request. The tokens of a following text are
appended to these ids and never merge with them, because the model has read only the prompt when it
starts to answer. A blank at the end of a prompt is left to the following text if the tokenizer
would merge it with the next word: models have hardly ever seen such a blank on its own, and answer
nonsense. All positions come from the tokenizer's character offsets on the whole text, never from
tokenising pieces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from errata.editing.chat import Chat, Prompt
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.chat_template import (
    Rendered,
    answer_separator,
    rendered,
    said_start,
    subject_place,
)
from errata.editing.model.encoding import Encoded, encode, encode_rendered, spellings
from errata.editing.model.seam import separator
from errata.errors import InvalidEditError

# Common words: if a tokenizer merges a blank with one of them, it merges blanks with words.
_WORDS = ("the", "a", "of", "is", "I")


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One tokenised text.

    Attributes:
        ids: token ids, including the special tokens that the tokenizer prepends.
        num_target: number of ids that belong to the target, at the end or before `num_after`.
        subject_index: index of the last subject token; −1 if no subject was given.
        leaves_blank: the prompt ends in a blank that belongs to the next token.
        said_index: index of the first token of what the user says; 0 in a text.
        num_after: number of ids at the end that follow the target; 0 unless a fit added them.
    """

    ids: tuple[int, ...]
    num_target: int = 0
    subject_index: int = -1
    leaves_blank: bool = False
    said_index: int = 0
    num_after: int = 0

    @property
    def target_end(self) -> int:
        """Index of the first id after the target."""
        return len(self.ids) - self.num_after

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The ids in front of the target."""
        return self.ids[: self.target_end - self.num_target]


def join(prompt: str, target: str, stated: str | None = None) -> str:
    """Prompt and target with a separator: the stated one, or the one that `seam` chooses."""
    return prompt + (separator(prompt, target) if stated is None else stated) + target


def tokenise(
    model: CausalLM,
    prompt: Prompt,
    target: str = "",
    *,
    subject: str | None = None,
    stated: str | None = None,
) -> TokenRow:
    """Tokenises `prompt`, followed by `target` if there is one.

    The row begins with the ids of the prompt alone, except for a blank at its end that merges with
    the next word. If prompt and target as one text have other ids, the target gets tokens that
    spell it after the prompt's ids. Special tokens that the tokenizer appends are omitted, because
    the model continues the text.

    Args:
        model: provides tokenizer, chat template and maximum length.
        prompt: the beginning of the text, or a conversation.
        target: the continuation; joined by `join`, or by what the chat template puts in front of
            an answer.
        subject: if given, `subject_index` is set to its last token in the prompt.
        stated: the separator between prompt and target, if the author stated it.

    Raises:
        InvalidEditError: no token, no target token, too long, a token that the model does not
            have, the subject is not in the prompt, or the chat template refuses the conversation;
            `field` is `prompt`, `target`, `subject` or `chat`.
    """
    (row,) = tokenise_all(model, [(prompt, target)], [stated])
    return row if subject is None else _located(model, row, prompt, subject)


def text_ids(model: CausalLM, texts: Sequence[str], *, most: int = 0) -> list[list[int]]:
    """Ids of plain texts of any length, without tokens that the model has no embedding for.

    Args:
        model: provides the tokenizer.
        texts: for example the paragraphs of a statistics text.
        most: maximum number of tokens of a text; the rest is cut off. 0 means no limit.
    """
    return [
        [token for token in encoded.ids if token < model.num_embeddings][: most or None]
        for encoded in encode(model, texts)
    ]


def tokenise_if_fits(
    model: CausalLM,
    prompt: Prompt,
    target: str = "",
    *,
    subject: str,
    stated: str | None = None,
) -> TokenRow | None:
    """As `tokenise`; None if the row is longer than the model's maximum."""
    (row,) = _rows(model, [(prompt, target)], [stated])
    if len(row.ids) > model.max_positions:
        return None
    return _located(model, row, prompt, subject)


def _located(model: CausalLM, row: TokenRow, prompt: Prompt, subject: str) -> TokenRow:
    """The row with the index of the subject's last token."""
    text = rendered(model, prompt)
    (encoded,) = encode_rendered(model, [text])
    start, end = 0, len(text.text)
    if isinstance(prompt, Chat):  # the markup and the system's words can contain the subject too
        start, end = subject_place(text, subject)
        if start == end:
            raise InvalidEditError(
                f"subject {subject!r} occurs in no turn of the conversation as the model reads it; "
                "use a turn's spelling.",
                field="subject",
            )
    last_char = start + subject_end(text.text[start:end], subject) - 1
    spans = enumerate(encoded.offsets)
    index = max((i for i, (a, b) in spans if a <= last_char < b), default=-1)
    if index < 0:
        raise InvalidEditError(
            f"subject {subject!r} ends in a character that the model's tokenizer drops; choose "
            "another end.",
            field="subject",
        )
    return replace(row, subject_index=index)


def tokenise_all(
    model: CausalLM, pairs: Sequence[tuple[Prompt, str]], stated: Sequence[str | None] = ()
) -> list[TokenRow]:
    """`tokenise` for many prompts, each with its target, in two calls of the tokenizer.

    Args:
        model: provides tokenizer and maximum length.
        pairs: prompts and targets.
        stated: the stated separator of each pair; empty if there is none for any pair.

    Raises:
        InvalidEditError: as `tokenise`, for the first invalid pair.
    """
    rows = _rows(model, pairs, stated)
    for row in rows:
        _check_length(model, row)
    return rows


def _rows(
    model: CausalLM, pairs: Sequence[tuple[Prompt, str]], stated: Sequence[str | None]
) -> list[TokenRow]:
    """As `tokenise_all`, for rows of any length."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    texts = {prompt: rendered(model, prompt) for prompt in prompts}
    encoded = dict(zip(prompts, encode_rendered(model, list(texts.values())), strict=True))
    own = dict(zip(prompts, _asked(model, list(texts.values()), encoded.values()), strict=True))
    control = model.control_tokens if model.special_tokens == "text" else None
    seams = stated or [None] * len(pairs)
    after = [
        _separator(model, prompt, texts[prompt], target, seam) + target if target else ""
        for (prompt, target), seam in zip(pairs, seams, strict=True)
    ]
    followed = [
        texts[prompt].followed_by(rest, control)
        for (prompt, _), rest in zip(pairs, after, strict=True)
        if rest
    ]
    joined = iter(encode_rendered(model, followed))
    rows = []
    for (prompt, target), rest in zip(pairs, after, strict=True):
        ids, leaves_blank = own[prompt]
        if not ids:
            raise InvalidEditError(
                "the prompt is empty; give the text to be continued.", field="prompt"
            )
        more: tuple[int, ...] = ()
        if target:
            whole = next(joined).ids
            merges = whole[: len(ids)] != ids
            more = (
                _following(model, ids, " " * leaves_blank + rest) if merges else whole[len(ids) :]
            )
            if not more:
                raise InvalidEditError(
                    f"target {target!r} has no token; give a visible target.", field="target"
                )
        rows.append(
            TokenRow(
                (*ids, *more),
                len(more),
                leaves_blank=leaves_blank,
                said_index=_said_index(prompt, texts[prompt], encoded[prompt]),
            )
        )
        _check_ids(model, rows[-1])
    return rows


def _said_index(prompt: Prompt, text: Rendered, encoded: Encoded) -> int:
    """The index of the first token of what the user says."""
    if isinstance(prompt, str):
        return 0
    start = said_start(prompt, text)
    return next((i for i, (_, end) in enumerate(encoded.offsets) if end > start), 0)


def _separator(
    model: CausalLM, prompt: Prompt, text: Rendered, target: str, stated: str | None
) -> str:
    """The text between a prompt and its target."""
    if stated is not None:
        return stated
    if isinstance(prompt, str) or prompt.continue_final_message:
        return separator(text.text, target)
    return answer_separator(model, prompt)


def _asked(
    model: CausalLM, prompts: Sequence[Rendered], encoded: Iterable[Encoded]
) -> list[tuple[tuple[int, ...], bool]]:
    """The ids of prompts, and whether each leaves the blank at its end to the next token."""
    found = [(each.ids, False) for each in encoded]
    blank = [
        n for n, prompt in enumerate(prompts) if prompt.text[-1:] == " " and prompt.text.strip()
    ]
    shorter = encode_rendered(model, [prompts[n].without_last() for n in blank])
    words = [prompts[n].followed_by(word, None) for n in blank for word in _WORDS]
    longer = iter(encode_rendered(model, words))
    for n, less in zip(blank, shorter, strict=True):
        (ids, _), kept = found[n], less.ids
        followed = [next(longer).ids for _ in _WORDS]
        if any(ids != more[: len(ids)] and kept == more[: len(kept)] for more in followed):
            found[n] = kept, True
    return found


def _following(model: CausalLM, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
    """Token ids that spell `text` after `ids`.

    Raises:
        InvalidEditError: there are none.
    """

    def spelled(more: Sequence[int]) -> str:
        made: str = model.tokenizer.decode(
            [*ids, *more], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return unicodedata.normalize("NFKC", made).casefold()

    wanted = spelled(()) + unicodedata.normalize("NFKC", text).casefold()
    for candidate in spellings(model, text):
        if candidate and spelled(candidate) == wanted:
            return candidate
    raise InvalidEditError(
        f"the model's tokens cannot spell {text!r} after this prompt; end the prompt before "
        "the word that follows.",
        field="prompt",
    )


def _check_length(model: CausalLM, row: TokenRow) -> None:
    """Refuses a row that is longer than the model's maximum."""
    size = len(row.ids)
    if size > model.max_positions:
        raise InvalidEditError(
            f"prompt and target have {size:,} tokens; the model takes {model.max_positions:,}. "
            "Shorten them.",
            field="prompt",
            num_tokens=size,
            limit=model.max_positions,
        )


def _check_ids(model: CausalLM, row: TokenRow) -> None:
    """Refuses a row with a token that has no embedding."""
    if max(row.ids) >= model.num_embeddings:
        strange = next(token for token in row.ids if token >= model.num_embeddings)
        name: Any = model.tokenizer.convert_ids_to_tokens(strange)
        raise InvalidEditError(
            f"token {name!r} (id {strange:,}) is in the tokenizer, but the model has only "
            f"{model.num_embeddings:,} embeddings; leave it out.",
            field="prompt",
            token_id=strange,
        )


def subject_end(prompt: str, subject: str) -> int:
    """Index of the first character after the subject's last occurrence in the prompt.

    The last occurrence, because the model has read most of the prompt there, and because a context
    in front of the prompt may also mention the subject. An occurrence as a whole word is preferred
    to one inside a longer word ("Lyon" in "Lyonnaise").

    Raises:
        InvalidEditError: the subject is empty or not in the prompt.
    """
    start = prompt.rfind(subject) if subject.strip() else -1
    if start < 0:
        raise InvalidEditError(
            f"subject {subject!r} does not occur in prompt {prompt!r}; use the prompt's spelling.",
            field="subject",
        )
    fallback = start + len(subject)
    while start >= 0:
        end = start + len(subject)
        before, after = prompt[:start][-1:], prompt[end:][:1]
        if not before.isalnum() and not after.isalnum():
            return end
        # rfind excludes matches that end after its bound
        start = prompt.rfind(subject, 0, end - 1)
    return fallback


def target_places(rows: Sequence[TokenRow]) -> list[tuple[int, int, int]]:
    """(row, column, id) of every target token; the token at `column` predicts `id`."""
    return [
        (number, column, row.ids[column + 1])
        for number, row in enumerate(rows)
        for column in range(row.target_end - row.num_target - 1, row.target_end - 1)
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
    """Position ids (B, T) int64 for a mask with padding on either side; padding has position 0."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)
