"""All edits of a lane that routes, as they are in force: an older edit of a fact waits its turn."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from errata.editing.lane.repository import Repository, Rows
from errata.errors import (
    ArtifactCorruptError,
    EditNotRevertibleError,
)

FACT_BYTES = 32


def fact_of(prompt: str) -> str:
    """What an edit with this prompt is about: edits of one fact supersede one another."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()


def pack_facts(facts: Sequence[str]) -> torch.Tensor:
    """(u, 32) uint8."""
    packed = [list(bytes.fromhex(fact)) for fact in facts]
    return torch.tensor(packed, dtype=torch.uint8).reshape(-1, FACT_BYTES)


def unpack_facts(packed: torch.Tensor) -> tuple[str, ...]:
    """What `pack_facts` took."""
    return tuple(bytes(row).hex() for row in packed.tolist())


@dataclass(frozen=True, slots=True)
class _Edit:
    """One edit in force."""

    fact: str
    digest: bytes


@dataclass(frozen=True, eq=False, slots=True)
class Inventory:
    """The edits in force at one moment; never changed, only replaced.

    Attributes:
        repository: the newest edit of each fact.
    """

    repository: Repository
    _superseded: Mapping[str, Rows] = field(repr=False)
    _edits: Mapping[str, _Edit] = field(repr=False)

    @classmethod
    def of(cls, rows: Rows) -> Inventory:
        """Exactly these edits, in this order."""
        repository = Repository.of(rows)
        active = set(repository.names)
        old = [name for name in rows.names if name not in active]
        return cls(repository, {name: rows.only({name}) for name in old}, _edits(rows))

    @property
    def names(self) -> tuple[str, ...]:
        """All edits in force, oldest first, superseded ones in their places."""
        return tuple(self._edits)

    def rows(self) -> Rows:
        """All edits in force, in the order of `names`."""
        repository = self.repository
        facts = tuple(self._edits[name].fact for name in repository.names)
        active = Rows(repository.names, facts, repository.keys, repository.values)
        if not self._superseded:
            return active
        order = {name: number for number, name in enumerate(self._edits)}
        return Rows.joined([active, *self._superseded.values()]).sorted(order.__getitem__)

    def adding(self, rows: Rows, seq: int) -> Addition:
        """Makes room for more edits.

        Args:
            rows: newer than all that are here.
            seq: of their commit.

        Raises:
            ArtifactCorruptError: one of them is here already.
        """
        if not self._edits.keys().isdisjoint(rows.names):
            raise ArtifactCorruptError(f"commit {seq} is already applied.", seq=seq)
        facts = {self._edits[name].fact for name in self.repository.names}
        if not facts.isdisjoint(rows.facts) or len(set(rows.facts)) < len(rows.facts):
            rebuilt = Inventory.of(Rows.joined([self.rows(), rows]))
            return Addition(self, rows, {}, None, rebuilt)
        room = self.repository.with_room(len(rows.names))
        return Addition(self, rows, _edits(rows), room, None)

    def without(self, edits: Collection[str]) -> Inventory:
        """As if `edits` had never been.

        Raises:
            EditNotRevertibleError: one of them is not in force.
        """
        unknown = set(edits) - self._edits.keys()
        if unknown:
            raise EditNotRevertibleError(
                f"{', '.join(sorted(unknown))}: not committed in this lane, or already reverted."
            )
        return Inventory.of(self.rows().without(set(edits)))

    @property
    def num_bytes(self) -> int:
        """Of keys and values of the edits that answer."""
        tensors = (self.repository.keys, self.repository.values)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def check_same(self, edits: Collection[str], seq: int) -> None:
        """Returns if exactly these edits are in force.

        Raises:
            ArtifactCorruptError: others are.
        """
        if set(edits) != self._edits.keys():
            raise ArtifactCorruptError(
                f"commit {seq} does not bring the {len(self._edits)} edits in force.", seq=seq
            )

    def digests(self) -> bytes:
        """The digests of all edits in force, in the order of `names`."""
        return b"".join(edit.digest for edit in self._edits.values())


@dataclass(frozen=True, eq=False, slots=True)
class Addition:
    """Edits that are ready to be put into an inventory.

    Where no fact is told anew, they go behind the others, into the same memory.
    """

    _before: Inventory
    _rows: Rows
    _more: Mapping[str, _Edit]
    _room: Repository | None
    _rebuilt: Inventory | None

    @property
    def values(self) -> torch.Tensor:
        """What the repository's edits will carry once these are put in."""
        if self._rebuilt is not None:
            return self._rebuilt.repository.values
        return torch.cat([self._before.repository.values, self._rows.values])

    def put(self) -> Inventory:
        """The inventory with them."""
        if self._room is None:
            assert self._rebuilt is not None
            return self._rebuilt
        before = self._before
        repository = self._room.with_rows(self._rows)
        edits = {**before._edits, **self._more}
        return Inventory(repository, before._superseded, edits)

    def undo(self) -> None:
        """Gives their room back; the inventory before is in force again."""
        if self._room is not None:
            self._room.reclaim()


def _edits(rows: Rows) -> dict[str, _Edit]:
    facts = zip(rows.names, rows.facts, rows.digests(), strict=True)
    return {name: _Edit(fact, digest) for name, fact, digest in facts}
