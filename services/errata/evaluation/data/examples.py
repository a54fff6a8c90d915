"""Records as what RECIPE's meta-training learns from."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.recipe.examples import Example
from errata.evaluation.data.record import Record


def as_examples(records: Sequence[Record]) -> list[Example]:
    """One example for each record; the new answers are the targets."""
    return [
        Example(
            prompt=record.prompt,
            target=record.target_new,
            subject=record.subject,
            rephrases=record.rephrases,
            locality=record.locality,
        )
        for record in records
    ]
