"""What came back for each request of a load run, and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from errata_client import Provenance


@dataclass(slots=True)
class Sample:
    """One request and what came back; times are seconds since the start of the run.

    Attributes:
        scheduled: when it was to be sent, whatever was still under way.
        streamed: whether pieces were asked for as they are made.
        min_seq: what was asked for; 0 if any position would do.
        expected: what an edit says the answer is; empty if nothing is expected.
        ended: when the answer or the error was complete; None if neither came.
        first: when the first token came, of streams.
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
        """Whether a whole answer came."""
        return self.ended is not None and not self.error


def count_stale(samples: Iterable[Sample]) -> int:
    """Answers of which any part was computed below the position that was asked for (P5)."""
    return sum(
        any(p.applied_seq < sample.min_seq for p in sample.provenances) for sample in samples
    )


def count_mixed(samples: Iterable[Sample]) -> int:
    """Answers of more than one version (P6), and of replicas that differ at one position (P7)."""
    states: dict[int, set[tuple[str, str]]] = defaultdict(set)
    mixed = 0
    for sample in samples:
        seen = {(p.applied_seq, p.chain_digest, p.state_digest) for p in sample.provenances}
        mixed += len(seen) > 1
        for seq, chain_digest, state_digest in seen:
            states[seq].add((chain_digest, state_digest))
    return mixed + sum(len(found) - 1 for found in states.values())


def count_wrong(samples: Iterable[Sample]) -> int:
    """Answers that do not begin with what the edit that they asked for says."""
    return sum(
        bool(s.expected) and s.answered and not s.text.strip().startswith(s.expected)
        for s in samples
    )
