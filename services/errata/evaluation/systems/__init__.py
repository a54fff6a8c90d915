"""Systems under test: models that take edits and answer, wherever they run.

Suites and metrics use only this protocol, so the same suite measures a lane in this process, a
cluster through its gateway, and a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from errata.editing.chat import Prompt
from errata.engine.sampling import Sampling
from errata.evaluation.data.record import Record

Pair = tuple[Prompt, str]
"""A prompt and its continuation: after one space in a text, by the template in a conversation."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A continuation under teacher forcing, token by token.

    Attributes:
        token_ids: of the continuation.
        argmax_ids: the token that the model ranks first at each position.
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
    """The outcome of a batch of edits.

    Attributes:
        rejected: `case_id` of the records whose edits the system rejected after a fit.
        seconds: wall clock until all of them were settled.
        parts: seconds of each part of the work, if the system reports them.
    """

    rejected: tuple[str, ...]
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_rejected(self) -> int:
        """Edits that the system rejected."""
        return len(self.rejected)


def requests_of(records: Sequence[Record]) -> list[list[Record]]:
    """Splits records into runs without a repeated prompt: a request must not contradict itself."""
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
        """Size of the state that carries the effect of all active edits."""

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Edits the records' new answers into the model."""

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Scores continuations, in the order of `pairs`."""

    def generate(
        self, prompts: Sequence[Prompt], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        """Continues each prompt by at most `max_tokens` tokens."""

    def reset(self) -> None:
        """Reverts all edits."""
