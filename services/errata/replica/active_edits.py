"""The bookkeeping of a replica: which edits are in force, and where they were committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class ActiveEdits:
    """Active and reverted edits, and where they were committed.

    Attributes:
        lane_of: active edits → their lane, in the order of their commits.
        commit_seq: edits → position of their commit; keeps reverted edits.
        reverted: names of reverted edits.
    """

    lane_of: dict[str, str] = field(default_factory=dict)
    commit_seq: dict[str, int] = field(default_factory=dict)
    reverted: set[str] = field(default_factory=set)

    def commit(self, edits: Sequence[str], lane: str, seq: int) -> None:
        """Adds the edits of the commit at `seq`."""
        self.lane_of.update(dict.fromkeys(edits, lane))
        self.commit_seq.update(dict.fromkeys(edits, seq))

    def revert(self, edits: Sequence[str]) -> None:
        """Removes active edits."""
        for edit in edits:
            del self.lane_of[edit]
        self.reverted.update(edits)
