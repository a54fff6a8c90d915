"""Compares what a model answers as it was read with what Errata answers from the new folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import nn

from errata.editing.model.causal_lm import CausalLM
from errata.engine.offline import score
from errata.errors import UnsupportedModelError

# Numbers, blanks and letters with accents are where tokenizers differ.
PROMPTS = (
    "The capital of France is",
    "In 1969, the first",
    "for i in range(10):\n    ",
    "Il était une fois",
)
CHAT = ({"role": "user", "content": "What is the capital of France?"},)
_NUM_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its greedy continuation.

    Attributes:
        name: the text, or `chat`.
        text: as it is tokenised.
        is_chat: `text` was rendered by the chat template, which writes its own special tokens.
        ids: token ids of the text.
        num_read: how many of them the model has read, so that text and continuation fit.
        continuation: token ids that follow.
        log_p: natural log-probability of each of them.
        margins: by how much it exceeds that of the second most likely token.
    """

    name: str
    text: str
    is_chat: bool
    ids: tuple[int, ...]
    num_read: int
    continuation: tuple[int, ...]
    log_p: tuple[float, ...]
    margins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows; the last one is a chat if there is a chat template."""

    rows: tuple[Row, ...]

    @property
    def has_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.rows[-1].is_chat

    @property
    def num_tokens(self) -> int:
        """Tokens of all continuations."""
        return sum(len(row.continuation) for row in self.rows)


def greedy_answers(model: nn.Module, tokenizer: Any) -> Answers:
    """Continues the prompts and, if there is a chat template, one chat.

    Args:
        model: a Hugging Face causal LM in eval mode.
        tokenizer: the model's.

    Raises:
        UnsupportedModelError: the chat template renders no question.
    """
    hf: Any = model
    chat = _rendered(tokenizer)
    texts = [*((text, text, False) for text in PROMPTS), *(("chat", text, True) for text in chat)]
    longest = int(hf.config.max_position_embeddings)
    size = min(_NUM_TOKENS, longest // 2)
    rows = []
    for name, text, is_chat in texts:
        ids = _ids(tokenizer, text, is_chat)
        num_read = min(len(ids), longest - size)
        rows.append(Row(name, text, is_chat, ids, num_read, *_greedy(hf, ids[:num_read], size)))
    return Answers(tuple(rows))


def compare(answers: Answers, llm: CausalLM) -> float:
    """Checks that Errata reads the same tokens, and would continue with the same ones.

    Returns:
        The largest difference between log-probabilities.

    Raises:
        UnsupportedModelError: there is a difference larger than rounding.
    """
    # Errata's passes round differently; two tokens that are nearly as likely may change places.
    tolerance = 3 * sqrt(torch.finfo(llm.dtype).eps)
    largest = 0.0
    for row in answers.rows:
        if _ids(llm.tokenizer, row.text, row.is_chat) != row.ids:
            raise _differs(row, "is tokenised differently")
        (log_p,), (own,) = score(llm, [row.ids[: row.num_read]], [row.continuation])
        for place, token in enumerate(row.continuation):
            difference = abs(log_p[place] - row.log_p[place])
            if not difference <= tolerance:
                raise _differs(row, f"has another probability at token {place} ({difference:.2g})")
            if own[place] != token and row.margins[place] > 2 * tolerance:
                raise _differs(row, f"continues differently at token {place}")
            largest = max(largest, difference)
    return largest


def _rendered(tokenizer: Any) -> list[str]:
    """The chat as a text; empty if there is no chat template."""
    if not tokenizer.chat_template:
        return []
    try:
        text = tokenizer.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja2's errors, and those of code in the template
        raise UnsupportedModelError(
            f"the tokenizer's chat template renders no question ({str(error)[:200]}). Correct the "
            "template, or remove it.",
        ) from error
    return [str(text)]


def _ids(tokenizer: Any, text: str, is_chat: bool) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=not is_chat)["input_ids"])


@torch.inference_mode()
def _greedy(
    hf: Any, prompt: Sequence[int], size: int
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """The `size` most likely tokens one by one, their log-probabilities and margins."""
    tokens, log_p, margins = [], [], []
    ids, cache = torch.tensor([list(prompt)], device=hf.device), None
    for _ in range(size):
        output = hf(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].float().log_softmax(dim=-1).topk(2)
        tokens.append(int(best.indices[0]))
        log_p.append(float(best.values[0]))
        margins.append(float(best.values[0] - best.values[1]))
        ids = best.indices[None, :1]
    return tuple(tokens), tuple(log_p), tuple(margins)


def _differs(row: Row, how: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"after the import, {row.name!r} {how}; nothing was kept. Errata does not reproduce this "
        "model: choose another, or dtype float32 if it was another one.",
        text=row.name,
    )
