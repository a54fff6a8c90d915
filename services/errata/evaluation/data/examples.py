"""Records as examples for RECIPE's meta-training, and records with rephrasings added."""

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
    """Records with rephrasings added to their edits, worded like other records of the relation.

    The rephrasings that a record is measured on are excluded.

    Args:
        records: of a data set.
        number: most rephrasings to add to an edit; fewer if there are not enough.
        seed: selects them.
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
