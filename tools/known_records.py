"""Writes evaluation records about facts that SmolLM2 knows, for `errata bench edit`.

    python -m tools.known_records build/known-texts.json
    python -m tools.known_records build/known-questions.json --questions

Each fact that `services/errata/demo/smollm2/edits.toml` lists as known gives one record in
CounterFact's flat form: an edit of its first text to another object of the relation, a rephrasing,
and a fact of the same relation that no record edits. Rephrasing and other fact are texts, or with
`--questions` the questions that a user would put in a chat.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.known_facts import EDITS, Fact, facts


def known_facts() -> tuple[list[Fact], list[Fact]]:
    """The facts that the model says in every phrasing, and all others."""
    known = tomllib.loads(EDITS.read_text("utf-8"))["known"]
    split: tuple[list[Fact], list[Fact]] = [], []
    for fact in facts():
        split[fact.subject not in known.get(fact.relation, ())].append(fact)
    return split


def records(*, questions: bool) -> Iterator[dict[str, Any]]:
    """Yields the records, in an order that does not depend on their relations."""
    known, others = known_facts()
    for number, fact in enumerate(random.Random(0).sample(known, len(known))):
        rng = random.Random(f"{fact.relation}|{fact.subject}")
        target = rng.choice(sorted(fact.others))
        # Its answer is not the edit's, so that an edit that spreads too far is seen.
        alike = [x for x in others if x.relation == fact.relation and x.answer != target]
        beside = rng.choice(alike)
        yield {
            "case_id": number,
            "prompt": fact.texts[0],
            "subject": fact.subject,
            "target_new": target,
            "ground_truth": fact.answer,
            "rephrase_prompt": fact.questions[0] if questions else fact.texts[1],
            "locality_prompt": (beside.questions if questions else beside.texts)[0],
            "locality_ground_truth": beside.answer,
        }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("output", type=Path, help="receives the records (JSON)")
    parser.add_argument("--questions", action="store_true", help="ask in a chat's questions")
    given = parser.parse_args()
    found = list(records(questions=given.questions))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
