"""The bookkeeping of a replica: which edits are in force and where they lie; open canaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from errata.editing.canaries import NO_CANARIES, Canaries, OpenCanary
from errata.editing.edit import Edit
from errata.errors import DataLossError
from errata.log.canaries import opened_by
from errata.log.canary_entries import CanaryEnded, CanarySet
from errata.log.standing import Known, Standing


@dataclass(slots=True)
class ActiveEdits:
    """Active and reverted edits, and where they were committed.

    Attributes:
        lane_of: active edits → their lane, in the order of their commits.
        commit_seq: edits → position of their commit; keeps reverted edits.
        reverted: names of reverted edits.
        namespace_of: all edits outside the default namespace → their place, committed or not.
        canaries: the open ones, and their active edits.
    """

    lane_of: dict[str, str] = field(default_factory=dict)
    commit_seq: dict[str, int] = field(default_factory=dict)
    reverted: set[str] = field(default_factory=set)
    namespace_of: dict[str, str] = field(default_factory=dict)
    canaries: Canaries = NO_CANARIES

    @classmethod
    def of(
        cls,
        standings: Mapping[str, Known],
        commit_seq: Mapping[str, int],
        canaries: Mapping[str, OpenCanary],
    ) -> ActiveEdits:
        """The edits of a fold.

        Args:
            standings: every edit's lane, state and place.
            commit_seq: edits → position of their commit.
            canaries: the open ones, by name.
        """
        committed, reverted = Standing.COMMITTED, Standing.REVERTED
        active = [name for name, known in standings.items() if known.standing is committed]
        active.sort(key=lambda name: commit_seq.get(name, 0))
        return cls(
            {name: standings[name].lane for name in active},
            dict(commit_seq),
            {name for name, known in standings.items() if known.standing is reverted},
            {name: known.namespace for name, known in standings.items() if known.namespace},
            Canaries(dict(sorted(canaries.items())), _members(canaries, standings, active)),
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
        self._note_canaries(self.canaries.open, edits)

    def revert(self, edits: Sequence[str]) -> None:
        """Removes active edits."""
        for edit in edits:
            del self.lane_of[edit]
        self.reverted.update(edits)
        self._note_canaries(self.canaries.open, edits)

    def set_canary(self, payload: CanarySet, seq: int) -> None:
        """Opens or changes a canary by the entry at `seq`."""
        known = self.canaries.open
        opened = opened_by(payload, seq, known.get(payload.canary))
        self._note_canaries({**known, opened.name: opened})

    def end_canary(self, name: str, *, promoted: bool) -> None:
        """Closes a canary; its edits lie in its namespace from now on, if it is promoted."""
        left = dict(self.canaries.open)
        ended = left.pop(name)
        if promoted:
            moved = [edit for edit, place in self.namespace_of.items() if place == ended.place]
            for edit in moved:
                if ended.namespace:
                    self.namespace_of[edit] = ended.namespace
                else:
                    del self.namespace_of[edit]
        self._note_canaries(left, list(self.canaries.canary_of))

    def to_revert(self, seq: int, edits: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Those of the edits that the entry at `seq` reverts, and their lane.

        Raises:
            DataLossError: one was never committed, or they are of several lanes.
        """
        left = tuple(edit for edit in edits if edit not in self.reverted)
        unknown = [edit for edit in left if edit not in self.lane_of]
        if unknown:
            raise DataLossError(
                f"entry {seq} reverts {', '.join(unknown)}, which no earlier entry committed.",
                seq=seq,
            )
        names = {self.lane_of[edit] for edit in left}
        if len(names) > 1:
            raise DataLossError(f"entry {seq} reverts edits of several lanes at once.", seq=seq)
        return left, min(names, default="")

    def to_end(self, seq: int, payload: CanaryEnded) -> tuple[OpenCanary, tuple[str, ...]]:
        """The canary that the entry at `seq` ends, and its active edits.

        Raises:
            DataLossError: it is not open, or has other edits.
        """
        canary = self.canaries.open.get(payload.canary)
        at = "" if canary is None else canary.place
        edits = tuple(edit for edit in self.lane_of if at and self.namespace_of.get(edit) == at)
        if canary is None or set(edits) != set(payload.edits):
            raise DataLossError(
                f"entry {seq} ends {payload.canary}, which is not open, or has other edits.",
                seq=seq,
            )
        return canary, edits

    def _note_canaries(self, open_: Mapping[str, OpenCanary], edits: Iterable[str] = ()) -> None:
        """Replaces the open canaries, and looks up anew what `edits` belong to."""
        if not open_ and not self.canaries.open:
            return
        at = {one.place: name for name, one in open_.items()}
        known = dict(self.canaries.canary_of)
        for edit in edits:
            known.pop(edit, None)
            place = self.namespace_of.get(edit)
            if edit in self.lane_of and place in at:
                known[edit] = at[place]
        self.canaries = Canaries(dict(sorted(open_.items())), known)


def _members(
    canaries: Mapping[str, OpenCanary], standings: Mapping[str, Known], active: Iterable[str]
) -> dict[str, str]:
    """Active edits of open canaries → the name of theirs."""
    at = {one.place: name for name, one in canaries.items()}
    places = ((edit, standings[edit].namespace) for edit in active) if at else ()
    return {edit: at[place] for edit, place in places if place in at}
