"""Contexts: texts around a prompt, so that a fit covers more than one phrasing of a fact."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from errata.editing.adaple.config import AdapleConfig
from errata.editing.chat import Prompt, as_text, other_form
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import text_ids

# The code of MEMIT and PMET begins its contexts with these words.
_OPENINGS = ("The", "Therefore", "Because", "I", "You")
_TOP_K = 5


def make_contexts(model: CausalLM, config: AdapleConfig, seed: int) -> tuple[str, ...]:
    """Makes templates with one `{}` for the prompt; the bare prompt comes first.

    Deterministic for a given model and seed.
    """
    generated = generate_prefixes(
        model, num=config.num_prefixes, num_tokens=config.prefix_tokens, seed=seed
    )
    # Generated braces must not act as placeholders for the prompt.
    prefixed = [text.replace("{", "(").replace("}", ")") + ". {}" for text in generated]
    return ("{}", *config.templates, *prefixed)


def prompts_of(model: CausalLM, edit: Edit, contexts: Sequence[str]) -> list[Prompt]:
    """The edit's prompt in each context and, if the model has a chat template, in its other form.

    The bare context `{}` leaves the prompt as it is; in front of other text, a conversation is
    replaced by its text. A form without the subject is replaced by the prompt.
    """
    found: list[Prompt] = []
    text = as_text(edit.prompt)
    for context in contexts:
        is_bare = context == "{}" or edit.subject not in text
        found.append(edit.prompt if is_bare else context.replace("{}", text))
    if model.has_chat_template:
        other = other_form(edit.prompt)
        lacks = isinstance(other, str) and edit.subject not in other
        found.append(edit.prompt if lacks else other)
    return found


def num_contexts(config: AdapleConfig) -> int:
    """The number of templates that `make_contexts` makes."""
    return 1 + len(config.templates) + config.num_prefixes


@torch.no_grad()
def generate_prefixes(model: CausalLM, *, num: int, num_tokens: int, seed: int) -> list[str]:
    """Generates `num` short texts in one batch.

    Samples from the five most likely tokens, as the code of MEMIT does, with a seeded generator.

    Returns:
        Texts of one line, with at most `num_tokens` generated tokens.
    """
    if num == 0:
        return []
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    openings = [_OPENINGS[i % len(_OPENINGS)] for i in range(num)]
    rows = text_ids(model, openings)
    width = min(len(row) for row in rows)
    special = [i for i in model.tokenizer.all_special_ids if i < model.num_embeddings]
    ids = torch.tensor([row[:width] for row in rows], device=model.device)  # (num, T)
    for _ in range(num_tokens):
        hidden = model.body(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        scores = model.head(hidden).float().cpu()
        # After an end-of-text token, the rest would belong to a new document.
        scores[:, special] = -torch.inf
        top = scores.topk(min(_TOP_K, scores.shape[-1]))
        choice = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, top.indices.gather(-1, choice).to(ids.device)], dim=-1)
    texts = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]
