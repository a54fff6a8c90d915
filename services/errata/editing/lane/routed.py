"""A lane that routes: commits, reversals, compaction, lane models and snapshots of its contents.

Slices define their contents and the abstract methods, such as `read` and `write`; the rest is here.
A change never modifies contents, it replaces them, so that earlier views stay unchanged.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.lane.commits import (
    Commit,
    Compaction,
    LaneDump,
    LaneEntry,
    LaneModelCommit,
    Promotion,
    Restoration,
    Reversal,
)
from errata.editing.lane.contract import Lane
from errata.editing.lane.inventory import Inventory
from errata.editing.lane.pages import LaneTable
from errata.editing.lane.repository import Repository, Rows
from errata.editing.lane.swap import Cell, Change
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import Undo
from errata.errors import ArtifactCorruptError, PreconditionError

EMPTY = Inventory.of(Rows.none(0, 0))
"""No edits; the first commit sets the widths of keys and values."""


@dataclass(frozen=True, eq=False)
class LaneContents:
    """The contents of a lane that routes; never modified, only replaced.

    Attributes:
        inventory: keys and values of the active edits.
    """

    inventory: Inventory

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact of the default namespace."""
        return self.inventory.repository

    @property
    def model_digest(self) -> str:
        """SHA-256, hex, of the lane model's bytes; empty without one."""
        return ""

    def digests(self) -> Iterator[bytes]:
        """The parts of the lane's digest, in order."""
        yield bytes.fromhex(self.model_digest)
        yield self.inventory.digests()


Contents = TypeVar("Contents", bound=LaneContents)


class RoutedLane(Lane, ABC, Generic[Contents]):
    """The part of a `Lane` that all methods that route share.

    Attributes:
        llm: of the process.
        name: of the lane.
        contents: the current contents.
    """

    def __init__(self, llm: BaseLLM, name: str, contents: Contents) -> None:
        """Starts with `contents`, which have no edits."""
        self.llm, self.name = llm, name
        self._contents = Cell(contents)
        self._digested: tuple[Contents, str] | None = None

    @property
    def contents(self) -> Contents:
        """What the lane holds now."""
        return self._contents.value

    # Slices implement or override these.

    row_tensors: ClassVar[frozenset[str]]
    """Names of the tensors in `write`'s artifact that have one row for each edit."""
    unit_tensors: ClassVar[str] = ""
    """Beginning of the names of its tensors that come in numbered units; see `pages.LaneTable`."""

    @abstractmethod
    def read(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, before: Contents
    ) -> tuple[Contents, Rows]:
        """Reads a commit's artifact.

        Args:
            artifact: of a commit or a compaction.
            edits: of the entry.
            seq: of the entry.
            before: the contents that the commit was fitted on.

        Returns:
            `before` with the new shared state but without the new edits; and the edits' rows.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: the artifact does not fit.
        """

    @abstractmethod
    def read_rows(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, contents: Contents
    ) -> Rows:
        """Reads rows alone, as a lane model's commit carries them; raises as `read`."""

    @abstractmethod
    def write(self, contents: Contents) -> Artifact | None:
        """The artifact from which `read` restores the contents; None if nothing is learned yet."""

    @abstractmethod
    def with_model(self, contents: Contents, model: Artifact, digest: str) -> Contents:
        """The contents under a lane model; rows and experts stay.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: the lane model does not fit.
        """

    @abstractmethod
    def cleared(self, contents: Contents) -> Contents:
        """The contents reduced to their lane model: no edits and no shared state."""

    def without(self, contents: Contents, edits: Collection[str]) -> Contents:
        """The contents as if `edits` had never been committed.

        Raises:
            EditNotRevertibleError: an edit is not active.
        """
        return self._with_inventory(contents, contents.inventory.without(edits))

    def indexed(self, contents: Contents, values: Callable[[], Mapping[str, Tensor]]) -> Contents:
        """The contents with the data derived from the values, (n, …), of each repository."""
        return contents

    def check_ready(self) -> None:
        """Checks that commits can be applied.

        Raises:
            PreconditionError: the lane still needs a lane model.
        """

    # Common to all lanes that route.

    @property
    def causal_lm(self) -> CausalLM:
        """The LLM with its weights, which fits need.

        Raises:
            PreconditionError: this process has no LLM.
        """
        if not isinstance(self.llm, CausalLM):
            raise PreconditionError(f"{self.name} cannot fit here: this process has no LLM.")
        return self.llm

    def prepare(self, entry: LaneEntry) -> Change:
        """As `Lane.prepare`."""
        match entry:
            case Commit():
                return self._commit(entry)
            case Reversal():
                return self._replacement(self.without(self.contents, entry.edits))
            case Promotion(edits=edits, namespace=namespace):
                after = self.contents.inventory.moved(edits, namespace)
                return self._replacement(self._with_inventory(self.contents, after))
            case LaneModelCommit():
                return self._replacement(self._with_lane_model(entry))
            case Compaction():
                self.contents.inventory.check_same(entry.edits, entry.seq)
                start = self.cleared(self.contents)
                return self._replacement(self._read_all(entry.artifact, entry.edits, entry, start))
            case Restoration():
                return self._replacement(self._restored(entry))

    def digest(self) -> str:
        """SHA-256, hex, of the lane model, the shared state and every active edit, in order."""
        contents, known = self.contents, self._digested
        if known is None or known[0] is not contents:  # every replica asks at every entry
            state = hashlib.sha256()
            for part in contents.digests():
                state.update(part)
            known = self._digested = contents, state.hexdigest()
        return known[1]

    def dump(self) -> Callable[[], LaneDump]:
        """As `Lane.dump`."""
        contents = self.contents

        def copy() -> LaneDump:
            artifact = self.write(contents)
            table = None
            if artifact is not None:
                names = contents.inventory.names
                table = LaneTable(names, artifact, self.row_tensors, self.unit_tensors)
            return LaneDump(contents.model_digest, table)

        return copy

    def _commit(self, commit: Commit) -> Change:
        self.check_ready()
        after, rows = self.read(commit.artifact, commit.edits, commit.seq, self.contents)
        rows, inventory = rows.placed(commit.namespaces), after.inventory
        if not inventory.names:  # this commit sets the widths
            inventory = Inventory.of(rows.only(()))
        addition = inventory.adding(rows, commit.seq)
        after = self.indexed(after, lambda: addition.values)

        def apply() -> Undo:
            undo_contents = self._contents.replaced_by(replace(after, inventory=addition.put()))()

            def undo() -> None:
                addition.undo()
                undo_contents()

            return undo

        return Change(apply)

    def _with_lane_model(self, commit: LaneModelCommit) -> Contents:
        before = self.contents
        before.inventory.check_same(commit.edits, commit.seq)
        after = self.with_model(before, commit.model, commit.digest)
        if commit.repository is None:
            if commit.edits:
                raise ArtifactCorruptError(
                    f"entry {commit.seq} does not carry the lane's edits.", seq=commit.seq
                )
            return after
        rows = self.read_rows(commit.repository, commit.edits, commit.seq, after)
        return self._with_inventory(after, Inventory.of(rows.placed(commit.namespaces)))

    def _restored(self, restoration: Restoration) -> Contents:
        dump, after = restoration.dump, self.cleared(self.contents)
        if restoration.model is not None:
            after = self.with_model(after, restoration.model, dump.model_digest)
        table = dump.contents
        if table is None:
            return after
        return self._read_all(table.artifact, table.edits, restoration, after)

    def _read_all(
        self,
        artifact: Artifact,
        edits: tuple[str, ...],
        entry: Compaction | Restoration,
        start: Contents,
    ) -> Contents:
        after, rows = self.read(artifact, edits, entry.seq, start)
        return self._with_inventory(after, Inventory.of(rows.placed(entry.namespaces)))

    def _with_inventory(self, contents: Contents, inventory: Inventory) -> Contents:
        after = replace(contents, inventory=inventory)
        return self.indexed(
            after, lambda: {name: one.values for name, one in inventory.repositories.items()}
        )

    def _replacement(self, after: Contents) -> Change:
        return Change(self._contents.replaced_by(after))
