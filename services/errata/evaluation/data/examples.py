"""Records as what RECIPE's meta-training learns from, and with rephrasings of one another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from errata.editing.retriever.examples import Example, frames_of
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


def with_rephrasings(records: Sequence[Record], number: int, seed: int) -> list[Record]:
    """Records whose edits bring rephrasings, asked as other records of the same relation are.

    Those that the record itself is measured on are not among them.

    Args:
        records: of a data set.
        number: of rephrasings that an edit brings, at most; fewer where there are no others.
        seed: of the choice.
    """
    if not number:
        return list(records)
    examples, rng = as_examples(records), random.Random(f"{seed}/rephrasings")
    frames = frames_of(examples)
    return [
        replace(
            record,
            brought=frames.rephrases(
                record.prompt, record.subject, number, rng, without=record.rephrases
            ),
        )
        for record in records
    ]
