"""The active edits of a lane that routes, including those that a newer edit supersedes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from errata.editing.artifact import tensor_bytes
from errata.editing.lane.repository import DIGEST_BYTES, Repository, Rows
from errata.errors import (
    ArtifactCorruptError,
    EditNotRevertibleError,
)

FACT_BYTES = 32


def fact_of(prompt: str) -> str:
    """The digest of an edit's fact; a newer edit of the same fact supersedes an older one."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()


def pack_facts(facts: Sequence[str]) -> torch.Tensor:
    """Fact digests as (u, 32) uint8."""
    packed = np.frombuffer(bytes.fromhex("".join(facts)), np.uint8)
    return torch.from_numpy(packed.copy()).reshape(-1, FACT_BYTES)


def unpack_facts(packed: torch.Tensor) -> tuple[str, ...]:
    """The facts that `pack_facts` packed."""
    text, size = bytes(tensor_bytes(packed)).hex(), 2 * FACT_BYTES
    return tuple(text[start : start + size] for start in range(0, len(text), size))


@dataclass(frozen=True, eq=False, slots=True)
class Inventory:
    """The active edits at one point in time; never modified, only replaced.

    Attributes:
        repository: the newest edit of each fact.
    """

    repository: Repository
    _superseded: Mapping[str, Rows] = field(repr=False)
    _facts: Mapping[str, str] = field(repr=False)  # of all active edits, oldest first
    _digests: bytes = field(repr=False)

    @classmethod
    def of(cls, rows: Rows) -> Inventory:
        """An inventory of exactly these edits, in this order."""
        return cls._of(rows, rows.digests())

    @classmethod
    def _of(cls, rows: Rows, digests: bytes) -> Inventory:
        repository = Repository.of(rows)
        newest = set(repository.names)
        superseded = [name for name in rows.names if name not in newest]
        kept = {name: rows.only({name}) for name in superseded}
        return cls(repository, kept, dict(zip(rows.names, rows.facts, strict=True)), digests)

    @property
    def names(self) -> tuple[str, ...]:
        """All active edits, oldest first, including superseded ones."""
        return tuple(self._facts)

    def rows(self) -> Rows:
        """The rows of all active edits, in the order of `names`."""
        repository = self.repository
        facts = tuple(map(self._facts.__getitem__, repository.names))
        newest = Rows(repository.names, facts, repository.keys, repository.values)
        if not self._superseded:
            return newest
        order = {name: number for number, name in enumerate(self._facts)}
        return Rows.joined([newest, *self._superseded.values()]).sorted(order.__getitem__)

    def adding(self, rows: Rows, seq: int) -> Addition:
        """Prepares the addition of edits.

        Args:
            rows: newer than all edits of this inventory.
            seq: of their commit.

        Raises:
            ArtifactCorruptError: this inventory already has one of them.
        """
        if not self._facts.keys().isdisjoint(rows.names):
            raise ArtifactCorruptError(f"commit {seq} is already applied.", seq=seq)
        is_known = any(map(self.repository.edit_about, rows.facts))
        if is_known or len(set(rows.facts)) < len(rows.facts):
            rebuilt = Inventory.of(Rows.joined([self.rows(), rows]))
            return Addition(self, rows, b"", None, rebuilt)
        room = self.repository.with_room(len(rows.names))
        return Addition(self, rows, rows.digests(), room, None)

    def without(self, edits: Collection[str]) -> Inventory:
        """The inventory as if `edits` had never been added.

        Raises:
            EditNotRevertibleError: one of them is not active.
        """
        unknown = set(edits) - self._facts.keys()
        if unknown:
            raise EditNotRevertibleError(
                f"{', '.join(sorted(unknown))}: not committed in this lane, or already reverted."
            )
        gone = set(edits)
        left = b"".join(
            self._digests[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)]
            for number, name in enumerate(self._facts)
            if name not in gone
        )
        return Inventory._of(self.rows().without(gone), left)  # no row is digested again

    @property
    def num_bytes(self) -> int:
        """The size of the repository's keys and values."""
        tensors = (self.repository.keys, self.repository.values)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def check_same(self, edits: Collection[str], seq: int) -> None:
        """Checks that exactly these edits are active.

        Raises:
            ArtifactCorruptError: other edits are active.
        """
        if set(edits) != self._facts.keys():
            raise ArtifactCorruptError(
                f"commit {seq} does not carry the {len(self._facts)} active edits.", seq=seq
            )

    def digests(self) -> bytes:
        """The digests of all active edits, in the order of `names`."""
        return self._digests


@dataclass(frozen=True, eq=False, slots=True)
class Addition:
    """Edits that are ready to be added to an inventory.

    If all of their facts are new, they are appended in the same memory; otherwise the inventory is
    rebuilt.
    """

    _before: Inventory
    _rows: Rows
    _digests: bytes
    _room: Repository | None
    _rebuilt: Inventory | None

    @property
    def values(self) -> torch.Tensor:
        """The values of the repository's edits after the addition."""
        if self._rebuilt is not None:
            return self._rebuilt.repository.values
        return torch.cat([self._before.repository.values, self._rows.values])

    def put(self) -> Inventory:
        """Adds the edits and returns the new inventory."""
        if self._room is None:
            assert self._rebuilt is not None
            return self._rebuilt
        before, rows = self._before, self._rows
        repository = self._room.with_rows(rows)
        facts = {**before._facts, **dict(zip(rows.names, rows.facts, strict=True))}
        return Inventory(repository, before._superseded, facts, before._digests + self._digests)

    def undo(self) -> None:
        """Releases the room of the edits, so that the previous inventory is valid again."""
        if self._room is not None:
            self._room.reclaim()
