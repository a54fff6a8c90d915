"""What a run saw: every call with its outcome, every delivery, every death; times are monotonic."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "refused", "unknown"]


@dataclass(frozen=True)
class Change:
    """One request to change the log, over all its attempts.

    Attributes:
        request_id: idempotency key; equal ids may occur in several changes.
        content: what was asked for, as `log_reading.content_of` words it.
        epochs: under which the log was asked; empty if a writer stood between.
        outcome: unknown if no attempt was answered.
        seq: the position of an acknowledged change.
        reason: of a refusal.
    """

    request_id: str
    content: str
    epochs: tuple[int, ...]
    invoked: float
    returned: float
    outcome: Outcome
    seq: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Grant:
    """An epoch that a writer was told it holds."""

    epoch: int
    invoked: float
    returned: float


@dataclass(frozen=True)
class Answer:
    """A replica's answer, or the state that it reports.

    Attributes:
        role: retrieval or worker; digests are compared within a role.
        replica: with its incarnation.
        min_seq: asked for; 0 if nothing was.
        seq: under which it answered.
        num_edits: active edits of the lane as the replica counts them; None if it does not say.
        edits: named as what shaped the answer.
    """

    role: str
    replica: str
    min_seq: int
    seq: int
    chain_digest: str
    state_digest: str
    num_edits: int | None = None
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """An entry that a subscriber was given."""

    seq: int
    chain_digest: str
    at: float


@dataclass(frozen=True)
class WitnessSeen:
    """The witness of a log service that had just died.

    Attributes:
        before: what was acknowledged or delivered before this time must be covered.
    """

    before: float
    seq: int
    epoch: int


@dataclass(frozen=True)
class Fault:
    """What was done to a process: kill, stop, failpoint-kill, drop, …; `at` is when it was."""

    process: str
    kind: str
    at: float


@dataclass
class History:
    """Everything of one run; any thread may add to it."""

    changes: list[Change] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    witnesses: list[WitnessSeen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    final_states: dict[str, str] = field(default_factory=dict)
    num_retries: int = 0
    num_refused_answers: int = 0
    recoveries: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, item: Any) -> None:
        """Appends to one of the lists."""
        with self.lock:
            getattr(self, kind).append(item)

    def saw(self, subscriber: str, item: Seen) -> None:
        """Appends to what a subscriber was given."""
        with self.lock:
            self.seen.setdefault(subscriber, []).append(item)

    def acknowledged(self) -> list[Change]:
        """The changes that were acknowledged."""
        return [change for change in self.changes if change.outcome == "ok"]

    def figures(self) -> dict[str, Any]:
        """Counts for the report."""
        faults = Counter(f"{fault.process} {fault.kind}" for fault in self.faults)
        return {
            "acknowledged": len(self.acknowledged()),
            "refused": sum(change.outcome == "refused" for change in self.changes),
            "unknown": sum(change.outcome == "unknown" for change in self.changes),
            "grants": len(self.grants),
            "answers": len(self.answers),
            "answers_with_min_seq": sum(answer.min_seq > 0 for answer in self.answers),
            "delivered": sum(map(len, self.seen.values())),
            "witnesses": len(self.witnesses),
            "retries": self.num_retries,
            "faults": dict(sorted(faults.items())),
        }

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        fields = ("changes", "grants", "answers", "witnesses", "faults")
        found: dict[str, Any] = {name: [asdict(x) for x in getattr(self, name)] for name in fields}
        found["seen"] = {name: [asdict(x) for x in items] for name, items in self.seen.items()}
        return found | {"final_states": self.final_states}
