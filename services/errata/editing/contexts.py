"""The texts that an edit is trained on: prompt and rephrases, alone and after other text."""

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
    """The first sentence of each paragraph, at most eight words, with a full stop at its end."""
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
    """The tokenised texts that an edit is trained on; the prompt is the first.

    The edit's rephrases follow, then prompt and rephrases in turn after contexts, then rephrases
    from frames. All random choices depend on the edit's prompt and target alone.

    Args:
        model: provides the tokenizer.
        edit: with its rephrases.
        contexts: texts to choose from.
        num_contexts: number of contexts to use.
        frames: source of further rephrases; None for none.
        num_rephrases: number of rephrases from `frames`.

    Raises:
        InvalidEditError: the prompt or a rephrase cannot be tokenised with the target.
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
        except InvalidEditError:  # the prompt alone may fill the model's window
            continue
    return tuple(rows)
