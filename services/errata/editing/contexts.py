"""Texts in front of a prompt, so that an edit is learned for more than one place in a text."""

from __future__ import annotations

import random
from collections.abc import Sequence

from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.editing.retriever.frames import Frames
from errata.errors import InvalidEditError

_FEWEST_WORDS, _MOST_WORDS = 3, 8


def openings(paragraphs: Sequence[str]) -> tuple[str, ...]:
    """The first sentence of each paragraph, cut to eight words; each ends with a full stop."""
    found = []
    for paragraph in paragraphs:
        words = paragraph.partition(". ")[0].split()[:_MOST_WORDS]
        if len(words) >= _FEWEST_WORDS:
            found.append(" ".join(words).rstrip(".,;: ") + ".")
    return tuple(found)


def training_texts(
    model: CausalLM,
    edit: Edit,
    contexts: Sequence[str],
    num_contexts: int,
    frames: Frames | None = None,
    num_rephrases: int = 0,
) -> tuple[TokenRow, ...]:
    """All texts that an edit is learned from: prompt, rephrasings, and these behind contexts.

    Args:
        model: whose tokenizer.
        edit: the prompt comes first.
        contexts: to choose from.
        num_contexts: how many of them; prompt and the edit's own rephrasings take turns behind
            them.
        frames: that further rephrasings come from.
        num_rephrases: how many of these. All choices depend on what the edit says alone.

    Raises:
        InvalidEditError: prompt or rephrasing cannot be tokenised with the target.
    """
    asked = (edit.prompt, *edit.rephrases)
    rows = [tokenise(model, text, edit.target, stated=edit.separator) for text in asked]
    rng = random.Random(f"{edit.prompt}|{edit.target}")
    chosen = rng.sample(contexts, min(num_contexts, len(contexts)))
    more = [f"{context} {asked[number % len(asked)]}" for number, context in enumerate(chosen)]
    if frames is not None:
        more += frames.rephrases(edit.prompt, edit.subject, num_rephrases, rng, edit.rephrases)
    for text in more:
        try:
            rows.append(tokenise(model, text, edit.target, stated=edit.separator))
        except InvalidEditError:  # a prompt may fill the model's window by itself
            continue
    return tuple(rows)
