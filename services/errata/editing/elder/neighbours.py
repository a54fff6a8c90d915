"""Withheld neighbours: what codes must not claim, for the calibration of ε. Ours.

Text that is about something else is easy to tell from an edit; a prompt of the same wording about
another subject is not. Each edit's prompt is therefore asked about other names, which the
statistics text mentions. The lane never trains on these prompts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from errata.editing.edit import Edit
from errata.editing.elder.experts import Shape
from errata.editing.elder.queries import queries_of
from errata.editing.model.causal_lm import CausalLM

PER_EDIT = 4
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w'’-]+(?: [A-Z][\w'’-]+){1,3}")  # inside a sentence


def names_in(paragraphs: Iterable[str]) -> tuple[str, ...]:
    """Names of two to four words, each once, in order of appearance."""
    found = (name for paragraph in paragraphs for name in _NAME.findall(paragraph))
    return tuple(dict.fromkeys(found))


def neighbours_of(edit: Edit, names: Sequence[str]) -> list[str]:
    """The edit's prompt about other names; the edit alone decides which. Empty without its subject.

    Args:
        edit: whose prompt contains its subject.
        names: from `names_in`.
    """
    if not edit.subject or edit.subject not in edit.said:
        return []
    others = [name for name in names if name != edit.subject]
    rng = random.Random(f"{edit.said}/neighbours")
    chosen = rng.sample(others, min(PER_EDIT, len(others)))
    return [edit.said.replace(edit.subject, name) for name in chosen]


def neighbour_queries(
    model: CausalLM, shape: Shape, edits: Sequence[Edit], names: Sequence[str]
) -> list[Tensor]:
    """The queries of each edit's neighbours, (≤ PER_EDIT, d_q) each."""
    prompts = [neighbours_of(edit, names) for edit in edits]
    queries = queries_of(model, shape, [prompt for some in prompts for prompt in some])
    return list(torch.split(queries, [len(some) for some in prompts]))
