"""What can be judged: a model that takes edits and answers, wherever it runs.

Suites and metrics know this protocol alone, so the same suite measures a lane in this process, a
cluster behind its gRPC front door, and a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from errata.engine.sampling import Sampling
from errata.evaluation.data.record import Record

Pair = tuple[str, str]
"""A prompt and what shall follow it after one blank."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A continuation under teacher forcing, token by token.

    Attributes:
        token_ids: of the continuation.
        argmax_ids: what the model ranks first at each of its places.
        log_probs: natural logarithms of the tokens' probabilities.
    """

    token_ids: tuple[int, ...]
    argmax_ids: tuple[int, ...]
    log_probs: tuple[float, ...]

    @property
    def mean_log_prob(self) -> float:
        """Mean over the tokens, in nats."""
        return math.fsum(self.log_probs) / len(self.log_probs)


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """What came of a batch of edits.

    Attributes:
        num_rejected: edits that the system refused after trying.
        seconds: wall clock until the last of them was settled.
        parts: seconds of the work's parts, where the system can tell.
    """

    num_rejected: int
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


def requests_of(records: Sequence[Record]) -> list[list[Record]]:
    """Records in as few runs as have no prompt twice: one request may not contradict itself."""
    runs: list[list[Record]] = []
    seen: set[str] = set()
    for record in records:
        if not runs or record.prompt in seen:
            runs.append([])
            seen.clear()
        runs[-1].append(record)
        seen.add(record.prompt)
    return runs


class System(Protocol):
    """A model under edits."""

    @property
    def model_digest(self) -> str:
        """Digest of the base model."""

    @property
    def state_bytes(self) -> int:
        """Size of what carries the effect of all edits in force."""

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Makes the records' new answers true, as far as the system can."""

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Scores continuations, in the order of `pairs`."""

    def generate(
        self, prompts: Sequence[str], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        """Continues each prompt by at most `max_tokens` tokens."""

    def reset(self) -> None:
        """Takes all edits back."""
