"""Writes evaluation records about facts that a chat model knows, for `errata bench edit`.

    python tools/known_facts.py MODEL --output build/known.json
    python -m tools.known_records build/known.json build/known-texts.json
    python -m tools.known_records build/known.json build/known-questions.json --questions

Each fact that the model says in all phrasings gives one record in CounterFact's flat form: an edit
of its first text to another object of the relation, a rephrasing, and a fact of the same relation
that no record edits; the model says that one, too, if there is such a fact. Rephrasing and other
fact are texts, or with `--questions` the questions that a user would put in a chat.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.known_facts import Fact, facts

Said = Mapping[tuple[str, str], Sequence[bool]]
"""(relation, subject) → whether the model says the fact: in each text, then in each question."""


def read_said(path: Path) -> Said:
    """Reads what `tools/known_facts.py --output` wrote."""
    rows = json.loads(path.read_text("utf-8"))
    return {(row["relation"], row["subject"]): row["said"] for row in rows}


def records(said: Said, least: int, *, questions: bool) -> Iterator[dict[str, Any]]:
    """Yields the records, in an order that does not depend on their relations.

    Args:
        said: by the model.
        least: number of phrasings in which it must say a fact that is edited.
        questions: ask for rephrasing and other fact in questions.
    """

    def answers(fact: Fact) -> Sequence[bool]:
        return said[fact.relation, fact.subject]

    candidates = list(facts())
    known = [fact for fact in candidates if sum(answers(fact)) >= least]
    others = [fact for fact in candidates if sum(answers(fact)) < least]
    for number, fact in enumerate(random.Random(0).sample(known, len(known))):
        rng = random.Random(f"{fact.relation}|{fact.subject}")
        target = rng.choice(sorted(fact.others))
        # Its answer is not the edit's, so that an edit that spreads too far is seen.
        alike = [x for x in others if x.relation == fact.relation and x.answer != target]
        asked = len(fact.texts) if questions else 0
        beside = rng.choice([x for x in alike if answers(x)[asked]] or alike)
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
    parser.add_argument("said", type=Path, help="made by tools/known_facts.py --output")
    parser.add_argument("output", type=Path, help="receives the records (JSON)")
    parser.add_argument("--questions", action="store_true", help="ask in a chat's questions")
    parser.add_argument(
        "--phrasings", type=int, default=4, help="in how many an edited fact must be said"
    )
    given = parser.parse_args()
    found = list(records(read_said(given.said), given.phrasings, questions=given.questions))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
