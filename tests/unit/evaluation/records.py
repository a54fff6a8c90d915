"""Records about the tiny models' text, for tests that edit."""

from __future__ import annotations

import json
from pathlib import Path

from errata.evaluation.data.record import Record

FACTS = [("Lyon", "Italy"), ("Nokia", "France"), ("Toyota", "Finland"), ("Pisa", "blue")]
FAST = {"layers": [1, 2], "num_prefixes": 0, "steps": 3, "covariance_samples": 4}
"""An AdaPLE configuration that is quick on a tiny model."""


def records() -> list[Record]:
    return [
        Record(
            case_id=str(number),
            prompt=f"{subject} is in",
            subject=subject,
            target_new=new,
            target_true="Beirut",
            rephrases=(f"You know. {subject} is in",),
            locality=(("Bordeaux is in", "Beirut"),),
        )
        for number, (subject, new) in enumerate(FACTS)
    ]


def write_flat(path: Path) -> Path:
    """The same as a CounterFact file."""
    rows = [
        {
            "prompt": record.prompt,
            "subject": record.subject,
            "target_new": record.target_new,
            "ground_truth": record.target_true,
            "rephrase_prompt": record.rephrases[0],
            "locality_prompt": record.locality[0][0],
            "locality_ground_truth": record.locality[0][1],
        }
        for record in records()
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path
