"""The bookkeeping of a replica: which edits are in force, and where they were committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from errata.log.standing import Standing


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

    @classmethod
    def of(
        cls, standings: Mapping[str, tuple[str, Standing]], commit_seq: Mapping[str, int]
    ) -> ActiveEdits:
        """The edits of a fold.

        Args:
            standings: every edit's lane and state.
            commit_seq: edits → position of their commit.
        """
        active = [name for name, (_, at) in standings.items() if at is Standing.COMMITTED]
        active.sort(key=lambda name: commit_seq.get(name, 0))
        reverted = {name for name, (_, at) in standings.items() if at is Standing.REVERTED}
        return cls({name: standings[name][0] for name in active}, dict(commit_seq), reverted)

    def commit(self, edits: Sequence[str], lane: str, seq: int) -> None:
        """Adds the edits of the commit at `seq`."""
        self.lane_of.update(dict.fromkeys(edits, lane))
        self.commit_seq.update(dict.fromkeys(edits, seq))

    def revert(self, edits: Sequence[str]) -> None:
        """Removes active edits."""
        for edit in edits:
            del self.lane_of[edit]
        self.reverted.update(edits)
