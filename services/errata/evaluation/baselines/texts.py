"""Texts of a baseline's training: those that the model writes, and an edit's prompt after them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.engine import offline
from errata.engine.sequence import whole_text
from errata.errors import FitError, InvalidEditError
from errata.evaluation.data.record import Record

NUM_PREFIXES = 10
_TEXTS, _TEXT_TOKENS = 100, 8  # about as long as a prompt


def own_texts(model: CausalLM, seed: int) -> list[str]:
    """A hundred short texts that the model writes, across ends of text, less the empty ones.

    Raises:
        FitError: no text is left beside `NUM_PREFIXES` prefixes.
    """
    length = min(_TEXT_TOKENS, model.max_positions - 1)
    written = offline.write(model, _TEXTS, length, seed)
    texts = [whole_text(model.tokenizer, ids).strip() for ids in written]
    found = [text for text in texts if text]
    if len(found) <= NUM_PREFIXES:
        raise FitError(
            f"{len(found)} of {_TEXTS} texts that the model wrote are not empty, but more than "
            f"{NUM_PREFIXES} are needed; choose a model that writes text, or another seed."
        )
    return found


def prefixed_rows(model: CausalLM, record: Record, prefixes: Sequence[str]) -> list[TokenRow]:
    """An edit's prompt with its answer, alone and after each prefix that the window has room for.

    Raises:
        InvalidEditError: the prompt alone is too long.
    """
    rows = [tokenise(model, record.prompt, record.target_new)]
    for prefix in prefixes:
        with suppress(InvalidEditError):
            rows.append(tokenise(model, f"{prefix}. {record.prompt}", record.target_new))
    return rows
