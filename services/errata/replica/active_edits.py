"""The bookkeeping of a replica: which edits are in force, and where they were committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from errata.editing.edit import Edit
from errata.log.standing import Known, Standing


@dataclass(slots=True)
class ActiveEdits:
    """Active and reverted edits, and where they were committed.

    Attributes:
        lane_of: active edits → their lane, in the order of their commits.
        commit_seq: edits → position of their commit; keeps reverted edits.
        reverted: names of reverted edits.
        namespace_of: all edits outside the default namespace → theirs, committed or not.
    """

    lane_of: dict[str, str] = field(default_factory=dict)
    commit_seq: dict[str, int] = field(default_factory=dict)
    reverted: set[str] = field(default_factory=set)
    namespace_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, standings: Mapping[str, Known], commit_seq: Mapping[str, int]) -> ActiveEdits:
        """The edits of a fold.

        Args:
            standings: every edit's lane, state and namespace.
            commit_seq: edits → position of their commit.
        """
        committed, reverted = Standing.COMMITTED, Standing.REVERTED
        active = [name for name, known in standings.items() if known.standing is committed]
        active.sort(key=lambda name: commit_seq.get(name, 0))
        return cls(
            {name: standings[name].lane for name in active},
            dict(commit_seq),
            {name for name, known in standings.items() if known.standing is reverted},
            {name: known.namespace for name, known in standings.items() if known.namespace},
        )

    def request(self, edits: Iterable[Edit]) -> None:
        """Notes the namespaces of requested edits."""
        self.namespace_of.update((edit.name, edit.namespace) for edit in edits if edit.namespace)

    def outside(self, edits: Iterable[str]) -> dict[str, str]:
        """The namespaces of those of the edits that are not in the default one."""
        known = self.namespace_of
        return {name: known[name] for name in edits if name in known} if known else {}

    def commit(self, edits: Sequence[str], lane: str, seq: int) -> None:
        """Adds the edits of the commit at `seq`."""
        self.lane_of.update(dict.fromkeys(edits, lane))
        self.commit_seq.update(dict.fromkeys(edits, seq))

    def revert(self, edits: Sequence[str]) -> None:
        """Removes active edits."""
        for edit in edits:
            del self.lane_of[edit]
        self.reverted.update(edits)
