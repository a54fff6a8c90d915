"""The edits of a lane that routes: names, keys and values as rows that grow without being copied.

Routing finds an edit by its key; the value is what the edit carries (RECIPE: its continuous prompt;
ELDER: its query). A `Repository` is a snapshot that never changes. Appending creates a snapshot
over the same memory; removing edits creates one over new memory that never held them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from errata.editing.artifact import tensor_bytes
from errata.editing.lane.search import Lineage
from errata.editing.namespaces import DEFAULT

_MIN_CAPACITY = 64

DIGEST_BYTES = 32


def room_for(num_rows: int, least: int = _MIN_CAPACITY) -> int:
    """The capacity of new memory that must hold `num_rows` rows, and never fewer than `least`."""
    return max(least, 2 * num_rows)


def room_after(num_rows: int, batch: int) -> int:
    """The capacity of a repository that grew from nothing to `num_rows` rows.

    Args:
        num_rows: rows of different facts.
        batch: rows that are appended at once.
    """
    capacity, filled = room_for(0), 0
    while filled < num_rows:
        filled += min(batch, num_rows - filled)
        if filled > capacity:
            capacity = room_for(filled)
    return capacity


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """u edits as read from an artifact.

    Attributes:
        names: `edits/{seq}-{index}`.
        facts: digest of what each edit is about; equal for edits of the same prompt.
        keys: (u, width) fp32.
        values: (u, …) fp32.
        namespaces: of each edit; none at all if all are in the default one.
    """

    names: tuple[str, ...]
    facts: tuple[str, ...]
    keys: Tensor
    values: Tensor
    namespaces: tuple[str, ...] = ()

    @staticmethod
    def none(width: int, *value: int) -> Rows:
        """No edits; `width` is that of keys, `value` the shape of values."""
        return Rows((), (), torch.zeros(0, width), torch.zeros(0, *value))

    def to(self, device: torch.device) -> Rows:
        """The same rows on another device."""
        return replace(self, keys=self.keys.to(device), values=self.values.to(device))

    def placed(self, namespaces: Mapping[str, str]) -> Rows:
        """The rows in their namespaces.

        Args:
            namespaces: of the edits that are not in the default one.
        """
        found = tuple(namespaces.get(name, DEFAULT) for name in self.names)
        return replace(self, namespaces=found if any(found) else ())

    def by_namespace(self) -> dict[str, Rows]:
        """The rows of each namespace that has some."""
        if not self.namespaces:
            return {DEFAULT: self} if self.names else {}
        members: dict[str, list[int]] = {}
        for number, namespace in enumerate(self.namespaces):
            members.setdefault(namespace, []).append(number)
        return {namespace: self._take(rows) for namespace, rows in members.items()}

    def only(self, names: Collection[str]) -> Rows:
        """The rows of these edits."""
        return self._take([i for i, name in enumerate(self.names) if name in names])

    def without(self, names: Collection[str]) -> Rows:
        """The rows of the other edits."""
        return self._take([i for i, name in enumerate(self.names) if name not in names])

    def sorted(self, order: Callable[[str], int]) -> Rows:
        """The rows in ascending order of `order(name)`."""
        return self._take(sorted(range(len(self.names)), key=lambda i: order(self.names[i])))

    def _take(self, rows: Sequence[int]) -> Rows:
        index = torch.tensor(rows, dtype=torch.int64, device=self.keys.device)
        return Rows(
            tuple(self.names[i] for i in rows),
            tuple(self.facts[i] for i in rows),
            self.keys[index],
            self.values[index],
            tuple(self.namespaces[i] for i in rows) if self.namespaces else (),
        )

    @staticmethod
    def joined(parts: Iterable[Rows]) -> Rows:
        """The rows of all parts, in order; there is at least one part."""
        rows = list(parts)
        return Rows(
            tuple(name for part in rows for name in part.names),
            tuple(fact for part in rows for fact in part.facts),
            torch.cat([part.keys for part in rows]),
            torch.cat([part.values for part in rows]),
            _joined_namespaces(rows),
        )

    def digests(self) -> bytes:
        """SHA-256 of each row's name, fact, tensors and namespace, `DIGEST_BYTES` each, in order.

        The default namespace adds nothing.
        """
        columns = zip(self.names, self.facts, _pieces(self.keys), _pieces(self.values), strict=True)
        parts = [(name.encode(), fact.encode(), key, value) for name, fact, key, value in columns]
        named = self.namespaces or (DEFAULT,) * len(parts)
        ends = [f"|{namespace}".encode() if namespace else b"" for namespace in named]
        return b"".join(
            hashlib.sha256(b"|".join(part) + end).digest()
            for part, end in zip(parts, ends, strict=True)
        )


def _joined_namespaces(parts: Sequence[Rows]) -> tuple[str, ...]:
    if not any(part.namespaces for part in parts):
        return ()
    return tuple(
        namespace for part in parts for namespace in part.namespaces or (DEFAULT,) * len(part.names)
    )


def _pieces(rows: Tensor) -> Iterator[memoryview]:
    """The bytes of each row."""
    data = tensor_bytes(rows)
    size = len(data) // max(1, len(rows))
    return (data[size * number : size * (number + 1)] for number in range(len(rows)))


@dataclass(eq=False, slots=True)
class _Memory:
    """Room for rows, filled from the front; a snapshot reads the rows filled at its creation."""

    keys: Tensor
    values: Tensor
    names: list[str]
    rows: dict[str, int]
    facts: dict[str, int]
    filled: int
    least: int

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        facts: Iterable[str],
        keys: Tensor,
        values: Tensor,
        needed: int,
        least: int,
    ) -> _Memory:
        """A copy of n rows, with room for at least `least` and twice `needed` rows."""
        n = len(keys)
        capacity = room_for(needed, least)
        memory = cls(
            keys.new_empty(capacity, *keys.shape[1:]),  # the system gives no memory for room yet
            values.new_empty(capacity, *values.shape[1:]),
            list(names),
            {name: row for row, name in enumerate(names)},
            {fact: row for row, fact in enumerate(facts)},
            n,
            least,
        )
        memory.keys[:n], memory.values[:n] = keys, values
        return memory


@dataclass(frozen=True, eq=False, slots=True)
class Repository:
    """The rows that routing searches: the newest edit of each fact.

    Attributes:
        num_rows: n.
        lineage: shared by the snapshots that grew from one another.
    """

    num_rows: int
    lineage: Lineage
    _memory: _Memory = field(repr=False)

    @classmethod
    def of(cls, rows: Rows, least: int = _MIN_CAPACITY) -> Repository:
        """A repository in its own memory.

        Args:
            rows: of one namespace; facts can repeat, and the last edit of each is kept.
            least: room that it has at least, in rows.
        """
        last = {fact: name for name, fact in zip(rows.names, rows.facts, strict=True)}
        if len(last) < len(rows.names):
            rows = rows.only(set(last.values()))
        memory = _Memory.of(rows.names, rows.facts, rows.keys, rows.values, len(last), least)
        return cls(len(last), Lineage(), memory)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the n edits, oldest first."""
        return tuple(self._memory.names[: self.num_rows])

    @property
    def keys(self) -> Tensor:
        """(n, width) fp32."""
        return self._memory.keys[: self.num_rows]

    @property
    def values(self) -> Tensor:
        """(n, …) fp32."""
        return self._memory.values[: self.num_rows]

    def facts(self) -> Iterator[str]:
        """The facts of the n edits."""
        return itertools.islice(self._memory.facts, self.num_rows)

    def rows_of(self, names: Collection[str]) -> list[int]:
        """The rows of edits that are in this repository."""
        return [self._memory.rows[name] for name in names]

    def name_of(self, row: int) -> str:
        """The edit of a row; empty for −1, where a search found none."""
        return self._memory.names[row] if row >= 0 else ""

    def value_of(self, name: str) -> Tensor:
        """What one edit carries.

        Raises:
            KeyError: the edit is not in this repository.
        """
        return self.values[self._memory.rows[name]]

    def edit_about(self, fact: str) -> str:
        """The edit of a fact; empty if there is none."""
        row = self._memory.facts.get(fact, self.num_rows)
        return self._memory.names[row] if row < self.num_rows else ""

    def with_room(self, num_rows: int) -> Repository:
        """The same rows with room for `num_rows` more, in new memory if the old has no room."""
        memory, n = self._memory, self.num_rows
        if memory.filled == n and n + num_rows <= len(memory.keys):
            return self
        facts = itertools.islice(memory.facts, n)  # in the order of rows
        memory = _Memory.of(self.names, facts, self.keys, self.values, n + num_rows, memory.least)
        return Repository(n, self.lineage, memory)

    def with_rows(self, rows: Rows) -> Repository:
        """A snapshot with `rows` appended in the same memory; `with_room` must provide the room."""
        n, u, memory = self.num_rows, len(rows.names), self._memory
        memory.keys[n : n + u], memory.values[n : n + u] = rows.keys, rows.values
        memory.names[n:] = rows.names
        for fact in list(itertools.islice(memory.facts, n, None)):  # of removed rows
            del memory.facts[fact]
        memory.facts.update((fact, row) for row, fact in enumerate(rows.facts, start=n))
        memory.rows.update((name, row) for row, name in enumerate(rows.names, start=n))
        memory.filled = n + u
        return Repository(n + u, self.lineage, memory)

    def reclaim(self) -> None:
        """Releases the room of later rows; snapshots that include them must not be in use."""
        self._memory.filled = self.num_rows
        self.lineage.cuts.append(self.num_rows)
