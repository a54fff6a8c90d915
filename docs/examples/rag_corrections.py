"""A retrieval pipeline that corrects the model where it contradicts the documents.

    python rag_corrections.py documents.jsonl "What is the capital of Spain?" ...

Each line of the documents is a passage: {"id", "text", "subject", "prompt", "answer"}. For each
question the pipeline finds a passage, and asks the model without it. If the model says something
else than the passage, the passage becomes an edit, with its id as the source: from then on the
model answers by itself, without retrieval and a longer prompt.
"""

import hashlib
import json
import math
import re
import sys
import uuid
from collections import Counter
from pathlib import Path

from errata_client import Client, EditRejectedError, EditSpec, EditState

_LEAST = 0.5


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.lower())


class Documents:
    """Passages, found by the words that they share with a question."""

    def __init__(self, path: Path) -> None:
        self.passages = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        self.counts = [Counter(words(passage["text"])) for passage in self.passages]
        known = Counter(word for count in self.counts for word in count)
        self.weights = {word: math.log(1 + len(self.counts) / n) for word, n in known.items()}

    def best(self, question: str) -> dict | None:
        """The passage that shares the largest part of a question's weight, if that is enough."""
        asked = words(question)
        total = sum(self.weights.get(word, math.log(1 + len(self.counts))) for word in asked)
        shares = [
            sum(self.weights[word] for word in asked if word in count) / total
            for count in self.counts
        ]
        found = max(range(len(shares)), key=shares.__getitem__)
        return self.passages[found] if shares[found] >= _LEAST else None


def main() -> int:
    """Answers the questions; returns 1 if a correction was rejected."""
    documents, failed = Documents(Path(sys.argv[1])), False
    with Client() as errata:
        for question in sys.argv[2:]:
            passage = documents.best(question)
            if passage is None:
                print(f"{question}: no passage")
                continue
            said = errata.generate(passage["prompt"], max_tokens=8).text.strip()
            if said.startswith(passage["answer"]):
                print(f"{question}: {passage['answer']}, as in {passage['id']}")
                continue
            try:
                correct(errata, passage)
                print(f"{question}: was {said.split('.')[0]}, corrected by {passage['id']}")
            except EditRejectedError as error:
                print(f"{question}: {error.message}")
                failed = True
    return failed


def correct(errata: Client, passage: dict) -> None:
    """Submits a passage as an edit, and waits until every replica answers with it."""
    spec = EditSpec(passage["prompt"], passage["answer"], passage["subject"], source=passage["id"])
    # The same passage has the same request id, so that it is submitted once.
    digest = hashlib.sha256(json.dumps(["rag", passage], sort_keys=True).encode()).digest()
    request = uuid.UUID(bytes=digest[:16], version=4)
    (edit,) = errata.submit_edits([spec], author="rag", request_id=str(request))
    (edit,) = errata.wait_edits([edit.name])
    if edit.state is not EditState.COMMITTED:
        raise EditRejectedError(f"{edit.name} of {passage['id']} is {edit.state.name.lower()}")


if __name__ == "__main__":
    sys.exit(main())
