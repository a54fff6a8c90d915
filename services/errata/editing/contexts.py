"""The texts that an edit is trained on: prompt and rephrases, alone and after other text."""

from __future__ import annotations

import random
from collections.abc import Sequence

from errata.editing.chat import Prompt, as_text, in_alternating_forms, other_form
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.questions import questions_about
from errata.errors import InvalidEditError

_FEWEST_WORDS, _MOST_WORDS = 3, 8
_MOST_ANSWER_WORDS = 12  # a short question about a subject is not answered with a long sentence


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
    num_questions: int = 0,
    wordings: Sequence[str] = (),
) -> tuple[TokenRow, ...]:
    """The tokenised texts that an edit is trained on; the prompt is the first.

    The edit's rephrases follow, then prompt and rephrases in turn after contexts, then other
    wordings and rephrases from frames. A model with a chat template then gets all but those after
    contexts in the other form: texts as conversations, conversations as texts. Questions come last,
    for a model with a chat template half of them as conversations. Of all that the edit did not
    bring, texts that do not fit are left out. All random choices depend on the edit's prompt and
    target alone.

    Args:
        model: provides the tokenizer.
        edit: with its rephrases.
        contexts: texts to choose from.
        num_contexts: number of contexts to use.
        frames: source of further rephrases; None for none.
        num_rephrases: number of rephrases from `frames`.
        num_questions: maximum number of questions about the subject, all of one relation, drawn at
            random: where a scope test decides what an edit claims, the model has to answer this
            form of text too. None for a target of more than twelve words.
        wordings: further rephrases that the edit did not bring.

    Raises:
        InvalidEditError: the prompt or a rephrase cannot be tokenised with the target.
    """
    asked = (edit.prompt, *edit.rephrases)
    rows = [
        tokenise(model, prompt, edit.target, stated=edit.separator_of(prompt)) for prompt in asked
    ]
    rng = random.Random(f"{edit.said}|{edit.target}")
    chosen = rng.sample(contexts, min(num_contexts, len(contexts)))
    texts = _texts_of(edit, asked)
    more: list[Prompt] = [
        f"{context} {texts[number % len(texts)]}" for number, context in enumerate(chosen)
    ]
    if frames is not None:
        known = frames.rephrases(edit.said, edit.subject, num_rephrases, rng, texts)
        wordings = (*wordings, *known)
    more += wordings
    if model.has_chat_template:
        others = [other_form(prompt) for prompt in (*asked, *wordings)]
        more += [form for form in others if not isinstance(form, str) or form in texts]
    if len(edit.target.split()) <= _MOST_ANSWER_WORDS:
        more += _questions(model, edit.subject, num_questions, rng)
    for prompt in more:
        try:
            rows.append(tokenise(model, prompt, edit.target, stated=edit.separator_of(prompt)))
        except InvalidEditError:  # the edit is valid without it, and may fill the model's window
            continue
    return tuple(rows)


def _texts_of(edit: Edit, asked: Sequence[Prompt]) -> list[str]:
    """Prompts as texts, at least one."""
    # A conversation's text can lack the subject; it would teach the target for every subject.
    named = [
        as_text(prompt)
        for prompt in asked
        if isinstance(prompt, str) or edit.subject in as_text(prompt)
    ]
    return named or [edit.said]


def _questions(
    model: CausalLM, subject: str, num_questions: int, rng: random.Random
) -> list[Prompt]:
    """Questions, for a model with a chat template every second one as a conversation."""
    # After a line's end the target has another first token, which small models hardly learn too.
    asked = questions_about(subject, num_questions, rng)
    kept = [text for text in asked if not text.endswith("\n")]
    return in_alternating_forms(kept, chats=model.has_chat_template)
