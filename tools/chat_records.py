"""Writes training records for the lane model of the demo with SmolLM2.

    python -m tools.chat_records build/chat-records.json

Each fact of `tools/smollm2_candidates.toml` gives a record for every ordered pair of its phrasings,
texts and questions alike: an edit to another object of the relation, a rephrasing, and a question
about another subject whose answer must stay.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

from tools.known_facts import facts


def records() -> Iterator[dict[str, Any]]:
    """Yields records in CounterFact's flat form."""
    known = list(facts())
    for fact in known:
        alike = [other for other in known if other.relation == fact.relation and other != fact]
        for prompt, rephrase in permutations((*fact.texts, *fact.questions), 2):
            rng = random.Random(f"{prompt}|{rephrase}")
            other = rng.choice(alike)
            yield {
                "prompt": prompt,
                "subject": fact.subject,
                "target_new": rng.choice(sorted(fact.others)),
                "ground_truth": fact.answer,
                "rephrase_prompt": rephrase,
                "locality_prompt": rng.choice((*other.texts, *other.questions)),
                "locality_ground_truth": other.answer,
            }


def main(output: Path) -> None:
    """Writes the records, in an order that does not depend on their relations."""
    shuffled = list(records())
    random.Random(0).shuffle(shuffled)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(shuffled, ensure_ascii=False, indent=1), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
