"""The active edits of a lane that routes, including those that a newer edit supersedes.

Each namespace has a repository of its own. So a search reads the rows of no other namespace, and
the same prompt in two namespaces is two facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from errata.editing.artifact import tensor_bytes
from errata.editing.lane.repository import DIGEST_BYTES, Repository, Rows
from errata.editing.namespaces import DEFAULT, EVERY, Reading, is_canary_place, own_namespace
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
class _Shelf:
    """The edits of one namespace.

    Attributes:
        repository: the newest edit of each fact.
        superseded: rows of the other edits, by name.
    """

    repository: Repository
    superseded: Mapping[str, Rows]

    @classmethod
    def of(cls, rows: Rows, namespace: str) -> _Shelf:
        """Edits of one namespace, oldest first, in memory of their own."""
        # A namespace can have few edits, and there can be thousands of them.
        repository = Repository.of(rows) if namespace == DEFAULT else Repository.of(rows, least=1)
        newest = set(repository.names)
        superseded = [name for name in rows.names if name not in newest]
        return cls(repository, {name: rows.only({name}) for name in superseded})

    @property
    def is_empty(self) -> bool:
        """Whether it has no edit."""
        return not self.repository.num_rows and not self.superseded


@dataclass(frozen=True, eq=False, slots=True)
class Inventory:
    """The active edits at one point in time; never modified, only replaced."""

    _shelves: Mapping[str, _Shelf] = field(repr=False)  # by namespace; the default one is there
    _facts: Mapping[str, str] = field(repr=False)  # of all active edits, oldest first
    _namespaces: Mapping[str, str] = field(repr=False)  # of edits outside the default one
    _digests: bytes = field(repr=False)
    # Filled when they are needed.
    _ranks: dict[str, int] = field(repr=False, default_factory=dict)
    _superseded: dict[tuple[str, ...], dict[str, frozenset[str]]] = field(
        repr=False, default_factory=dict
    )

    @classmethod
    def of(cls, rows: Rows) -> Inventory:
        """An inventory of exactly these edits, in this order."""
        parts = {DEFAULT: rows.only(()), **rows.by_namespace()}
        shelves = {namespace: _Shelf.of(part, namespace) for namespace, part in parts.items()}
        facts = dict(zip(rows.names, rows.facts, strict=True))
        return cls(shelves, facts, _outside(rows), rows.digests())

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact of the default namespace."""
        return self._shelves[DEFAULT].repository

    @property
    def repositories(self) -> dict[str, Repository]:
        """The newest edit of each fact, by namespace; that of the default one can be empty."""
        return {namespace: shelf.repository for namespace, shelf in self._shelves.items()}

    @property
    def stored(self) -> list[Repository]:
        """The repositories, in no particular order."""
        return list(self.repositories.values())

    @property
    def num_rows(self) -> int:
        """Number of edits that can claim a prompt."""
        return sum(shelf.repository.num_rows for shelf in self._shelves.values())

    @property
    def names(self) -> tuple[str, ...]:
        """All active edits, oldest first, including superseded ones."""
        return tuple(self._facts)

    @property
    def namespaces(self) -> list[str]:
        """The namespaces that have an active edit."""
        return [name for name, shelf in self._shelves.items() if not shelf.is_empty]

    def namespace_of(self, name: str) -> str:
        """The namespace of an active edit."""
        return self._namespaces.get(name, DEFAULT)

    def repository_of(self, namespace: str) -> Repository:
        """The newest edit of each fact of a namespace, which has edits or is the default one."""
        return self._shelves[namespace].repository

    def read_by(self, reading: Reading) -> list[str]:
        """The namespaces that a reading names and that have an edit that can claim a prompt."""
        shelves, wanted = self._shelves, reading
        if EVERY in reading:  # that is no canary's place; such places are named one by one
            wanted = tuple(n for n in shelves if not is_canary_place(n) or n in reading)
        return [n for n in wanted if n in shelves and shelves[n].repository.num_rows]

    def superseded_among(self, places: tuple[str, ...]) -> dict[str, frozenset[str]]:
        """Place → its edits that a newer edit of the same fact supersedes for who reads `places`.

        Those of a namespace and of its canaries supersede one another; namespaces do not.

        Args:
            places: that a prompt reads, as `read_by` lists them.
        """
        if not any(map(is_canary_place, places)):
            return {}
        known = self._superseded.get(places)
        if known is None:
            groups: dict[str, list[str]] = {}
            for place in places:
                groups.setdefault(own_namespace(place), []).append(place)
            known = self._superseded[places] = {
                place: edits
                for group in groups.values()
                for place, edits in self._superseded_in(group).items()
            }
        return known

    def _superseded_in(self, places: Sequence[str]) -> dict[str, frozenset[str]]:
        """The same for a namespace and places of its canaries."""
        repositories = {place: self._shelves[place].repository for place in places}
        largest = max(places, key=lambda place: repositories[place].num_rows)
        facts = {f for place in places if place != largest for f in repositories[place].facts()}
        gone: dict[str, set[str]] = {}
        for fact in facts:
            edits = {place: one.edit_about(fact) for place, one in repositories.items()}
            found = {edit: place for place, edit in edits.items() if edit}
            for edit in found.keys() - {self.newest(found)}:
                gone.setdefault(found[edit], set()).add(edit)
        return {place: frozenset(edits) for place, edits in gone.items()}

    def value_of(self, name: str) -> torch.Tensor:
        """What an edit that can claim a prompt carries.

        Raises:
            KeyError: there is no such edit.
        """
        return self.repository_of(self.namespace_of(name)).value_of(name)

    def newest(self, names: Collection[str]) -> str:
        """The newest of these active edits."""
        if len(names) > 1 and not self._ranks:
            self._ranks.update((name, rank) for rank, name in enumerate(self._facts))
        return max(names, key=lambda name: self._ranks.get(name, 0))

    def rows(self) -> Rows:
        """The rows of all active edits, in the order of `names`."""
        parts = [self._rows_of(namespace) for namespace in self._shelves]
        if len(parts) == 1:
            return parts[0]
        return self._in_order(Rows.joined(parts))

    def _rows_of(self, namespace: str) -> Rows:
        """The rows of one namespace, oldest first."""
        shelf = self._shelves[namespace]
        repository = shelf.repository
        facts = tuple(map(self._facts.__getitem__, repository.names))
        newest = Rows(repository.names, facts, repository.keys, repository.values)
        if namespace != DEFAULT:
            newest = newest.placed(self._namespaces)
        if not shelf.superseded:
            return newest
        return self._in_order(Rows.joined([newest, *shelf.superseded.values()]))

    def _in_order(self, rows: Rows) -> Rows:
        order = {name: number for number, name in enumerate(self._facts)}
        return rows.sorted(order.__getitem__)

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
        parts = rows.by_namespace()
        steps = {namespace: self._step(namespace, part) for namespace, part in parts.items()}
        return Addition(self, rows, rows.digests(), steps)

    def _step(self, namespace: str, rows: Rows) -> _Step:
        shelf = self._shelves.get(namespace) or _Shelf.of(rows.only(()), namespace)
        is_known = any(map(shelf.repository.edit_about, rows.facts))
        if is_known or len(set(rows.facts)) < len(rows.facts):
            earlier = [self._rows_of(namespace)] if namespace in self._shelves else []
            return _Step(rows, shelf, None, _Shelf.of(Rows.joined([*earlier, rows]), namespace))
        return _Step(rows, shelf, shelf.repository.with_room(len(rows.names)), None)

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
        shelves = self._shelves_without(gone)
        digests = b"".join(  # no row is digested again
            self._digests[DIGEST_BYTES * number : DIGEST_BYTES * (number + 1)]
            for number, name in enumerate(self._facts)
            if name not in gone
        )
        facts = {name: fact for name, fact in self._facts.items() if name not in gone}
        outside = {name: own for name, own in self._namespaces.items() if name not in gone}
        return Inventory(shelves, facts, outside, digests)

    def _shelves_without(self, gone: Collection[str]) -> dict[str, _Shelf]:
        shelves = dict(self._shelves)
        for namespace in sorted({self.namespace_of(name) for name in gone}):
            left = _Shelf.of(self._rows_of(namespace).without(gone), namespace)
            if left.is_empty and namespace != DEFAULT:
                del shelves[namespace]
            else:
                shelves[namespace] = left
        return shelves

    def moved(self, edits: Collection[str], namespace: str) -> Inventory:
        """The inventory as if `edits` had been committed to another namespace, when they were.

        So the newest edit of a fact there answers, which need not be a moved one.

        Args:
            edits: active; none of them is in `namespace`.
            namespace: to which they move.
        """
        gone = set(edits)
        sources = sorted({self.namespace_of(name) for name in gone})
        rows = self._in_order(Rows.joined([self._rows_of(one).only(gone) for one in sources]))
        rows = rows.placed(dict.fromkeys(rows.names, namespace) if namespace else {})
        there = [self._rows_of(namespace)] if namespace in self._shelves else []
        shelves = self._shelves_without(gone)
        shelves[namespace] = _Shelf.of(self._in_order(Rows.joined([*there, rows])), namespace)
        new = dict(zip(rows.names, _pieces_of(rows.digests()), strict=True))
        old = zip(self._facts, _pieces_of(self._digests), strict=True)
        digests = b"".join(new.get(name, digest) for name, digest in old)
        outside = {name: own for name, own in self._namespaces.items() if name not in gone}
        return Inventory(shelves, self._facts, {**outside, **_outside(rows)}, digests)

    @property
    def num_bytes(self) -> int:
        """The size of the repositories' keys and values."""
        tensors = [t for one in self.repositories.values() for t in (one.keys, one.values)]
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
class _Step:
    """What an addition does in one namespace.

    Attributes:
        rows: the new edits.
        before: what was there.
        room: the repository with room for them, if all of their facts are new; else None.
        rebuilt: what is there afterwards, if not all of them are.
    """

    rows: Rows
    before: _Shelf
    room: Repository | None
    rebuilt: _Shelf | None

    def values(self) -> torch.Tensor:
        """The values of the repository's edits afterwards."""
        if self.rebuilt is not None:
            return self.rebuilt.repository.values
        return torch.cat([self.before.repository.values, self.rows.values])

    def put(self) -> _Shelf:
        """Adds the edits."""
        if self.room is not None:
            return _Shelf(self.room.with_rows(self.rows), self.before.superseded)
        assert self.rebuilt is not None
        return self.rebuilt


@dataclass(frozen=True, eq=False, slots=True)
class Addition:
    """Edits that are ready to be added to an inventory.

    In a namespace where all of their facts are new, they are appended in the same memory;
    otherwise that namespace is rebuilt. Other namespaces stay as they are.
    """

    _before: Inventory
    _rows: Rows
    _digests: bytes
    _steps: Mapping[str, _Step]

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """The values of each repository's edits after the addition, by namespace."""
        before = {name: one.values for name, one in self._before.repositories.items()}
        return {**before, **{name: step.values() for name, step in self._steps.items()}}

    def put(self) -> Inventory:
        """Adds the edits and returns the new inventory."""
        before, rows = self._before, self._rows
        shelves = {**before._shelves, **{name: step.put() for name, step in self._steps.items()}}
        facts = {**before._facts, **dict(zip(rows.names, rows.facts, strict=True))}
        outside = {**before._namespaces, **_outside(rows)}
        return Inventory(shelves, facts, outside, before._digests + self._digests)

    def undo(self) -> None:
        """Releases the room of the edits, so that the previous inventory is valid again."""
        for step in self._steps.values():
            if step.room is not None:
                step.room.reclaim()


def _pieces_of(digests: bytes) -> list[bytes]:
    """The digest of each row."""
    return [digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)]


def _outside(rows: Rows) -> dict[str, str]:
    """The namespaces of the edits that are not in the default one."""
    pairs = zip(rows.names, rows.namespaces, strict=True) if rows.namespaces else ()
    return {name: namespace for name, namespace in pairs if namespace}
