"""The answer to each request of a load run, and counts of wrong answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from errata_client import Provenance


@dataclass(slots=True)
class Sample:
    """One request and its answer; times are seconds since the start of the run.

    Attributes:
        scheduled: when it was due, regardless of requests in flight.
        streamed: whether it asked for a stream.
        min_seq: as requested; 0 if any position is allowed.
        expected: the answer according to an edit; empty if none is expected.
        ended: when the answer or the error was complete; None if neither came.
        first: when a stream's first token came.
        between: seconds for each token after the first piece.
        text: of the answer.
        num_tokens: of the answer.
        provenances: of every message of the answer, in order.
        error: the status of a failure.
    """

    scheduled: float
    streamed: bool
    min_seq: int = 0
    expected: str = ""
    ended: float | None = None
    first: float | None = None
    between: list[float] = field(default_factory=list)
    text: str = ""
    num_tokens: int = 0
    provenances: list[Provenance] = field(default_factory=list)
    error: str = ""

    @property
    def answered(self) -> bool:
        """Whether a complete answer came."""
        return self.ended is not None and not self.error


def count_stale(samples: Iterable[Sample]) -> int:
    """Answers with any part computed below the requested position (P5)."""
    return sum(
        any(p.applied_seq < sample.min_seq for p in sample.provenances) for sample in samples
    )


def count_mixed(samples: Iterable[Sample]) -> int:
    """Answers of more than one version (P6), or of replicas that differ at one position (P7)."""
    states: dict[int, set[tuple[str, str]]] = defaultdict(set)
    mixed = 0
    for sample in samples:
        seen = {(p.applied_seq, p.chain_digest, p.state_digest) for p in sample.provenances}
        mixed += len(seen) > 1
        for seq, chain_digest, state_digest in seen:
            states[seq].add((chain_digest, state_digest))
    return mixed + sum(len(found) - 1 for found in states.values())


def count_wrong(samples: Iterable[Sample]) -> int:
    """Answers that do not begin with the target of the edit they asked about."""
    return sum(
        bool(s.expected) and s.answered and not s.text.strip().startswith(s.expected)
        for s in samples
    )
