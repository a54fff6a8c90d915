"""A lane that routes: commits, reversals, compaction, lane models and snapshots of its contents.

Slices say what their contents are and give `read`, `write` and `without`; all else is here. A
change never modifies contents: it replaces them, so that views made before it stay as they were.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.lane.commits import (
    Commit,
    Compaction,
    LaneDump,
    LaneEntry,
    LaneModelCommit,
    Restoration,
    Reversal,
)
from errata.editing.lane.contract import Lane
from errata.editing.lane.inventory import Inventory
from errata.editing.lane.repository import Repository, Rows
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import Undo
from errata.errors import ArtifactCorruptError, PreconditionError

EMPTY = Inventory.of(Rows.none(0, 0))
"""No edits; the first commit says how wide keys and values are."""


@dataclass(frozen=True, eq=False)
class LaneContents:
    """What a lane that routes holds; never modified, only replaced.

    Attributes:
        inventory: keys and values of the active edits.
    """

    inventory: Inventory

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact."""
        return self.inventory.repository

    @property
    def model_digest(self) -> str:
        """SHA-256, hex, of the lane model's bytes; empty without one."""
        return ""

    def digests(self) -> Iterator[bytes]:
        """What the lane's digest is made of, in order."""
        yield bytes.fromhex(self.model_digest)
        yield self.inventory.digests()


Contents = TypeVar("Contents", bound=LaneContents)


class RoutedLane(Lane, ABC, Generic[Contents]):
    """The part of a `Lane` that all methods that route share.

    Attributes:
        llm: of the process.
        name: of the lane.
        contents: what the lane holds now.
    """

    def __init__(self, llm: BaseLLM, name: str, contents: Contents) -> None:
        """Starts with `contents`, which have no edits."""
        self.llm, self.name, self.contents = llm, name, contents

    # What slices give.

    @abstractmethod
    def read(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, before: Contents
    ) -> tuple[Contents, Rows]:
        """Reads a commit's artifact.

        Args:
            artifact: of a commit or a compaction.
            edits: of it.
            seq: of it.
            before: what the commit was fitted on.

        Returns:
            `before` with what the edits share, but still without the edits; and their rows.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit.
        """

    @abstractmethod
    def read_rows(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, contents: Contents
    ) -> Rows:
        """Reads rows alone, as a lane model's commit brings them; raises as `read`."""

    @abstractmethod
    def write(self, contents: Contents) -> Artifact | None:
        """The artifact from which `read` makes these contents; None if nothing is learned yet."""

    @abstractmethod
    def with_model(self, contents: Contents, model: Artifact, digest: str) -> Contents:
        """The contents under a lane model; rows and experts stay.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit.
        """

    @abstractmethod
    def cleared(self, contents: Contents) -> Contents:
        """The contents with their lane model alone: no edit, nothing learned."""

    def without(self, contents: Contents, edits: Collection[str]) -> Contents:
        """The contents as if `edits` had never been committed.

        Raises:
            EditNotRevertibleError: an edit is not active.
        """
        return self._holding(contents, contents.inventory.without(edits))

    def indexed(self, contents: Contents, values: Tensor) -> Contents:
        """The contents with what is derived from the values of the repository's edits, (n, …)."""
        return contents

    def check_ready(self) -> None:
        """Returns if commits can be applied.

        Raises:
            PreconditionError: the lane still needs a lane model.
        """

    # What every lane that routes does.

    @property
    def causal_lm(self) -> CausalLM:
        """The LLM with its weights, which fits need.

        Raises:
            PreconditionError: this process has none.
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
                return self._replacing(self.without(self.contents, entry.edits))
            case LaneModelCommit():
                return self._replacing(self._under(entry))
            case Compaction():
                self.contents.inventory.check_same(entry.edits, entry.seq)
                start = self.cleared(self.contents)
                return self._replacing(self._all_of(entry.artifact, entry.edits, entry.seq, start))
            case Restoration():
                return self._replacing(self._restored(entry))

    def digest(self) -> str:
        """SHA-256, hex, of lane model, of what edits share, and of every active edit, in order."""
        state = hashlib.sha256()
        for part in self.contents.digests():
            state.update(part)
        return state.hexdigest()

    def dump(self) -> Callable[[], LaneDump]:
        """As `Lane.dump`."""
        held = self.contents

        def copy() -> LaneDump:
            return LaneDump(held.model_digest, held.inventory.names, self.write(held))

        return copy

    def _commit(self, commit: Commit) -> Change:
        self.check_ready()
        after, rows = self.read(commit.artifact, commit.edits, commit.seq, self.contents)
        inventory = after.inventory
        if not inventory.names:  # its widths are known only now
            inventory = Inventory.of(rows.only(()))
        addition = inventory.adding(rows, commit.seq)
        after = self.indexed(after, addition.values)

        def apply() -> Undo:
            before = self.contents
            self.contents = replace(after, inventory=addition.put())

            def undo() -> None:
                addition.undo()
                self.contents = before

            return undo

        return Change(apply)

    def _under(self, commit: LaneModelCommit) -> Contents:
        now = self.contents
        now.inventory.check_same(commit.edits, commit.seq)
        after = self.with_model(now, commit.model, commit.digest)
        if commit.repository is None:
            if commit.edits:
                raise ArtifactCorruptError(
                    f"entry {commit.seq} does not bring the lane's edits.", seq=commit.seq
                )
            return after
        rows = self.read_rows(commit.repository, commit.edits, commit.seq, after)
        return self._holding(after, Inventory.of(rows))

    def _restored(self, restoration: Restoration) -> Contents:
        dump, after = restoration.dump, self.cleared(self.contents)
        if restoration.model is not None:
            after = self.with_model(after, restoration.model, dump.model_digest)
        if dump.repository is None:
            return after
        return self._all_of(dump.repository, dump.edits, restoration.seq, after)

    def _all_of(
        self, artifact: Artifact, edits: tuple[str, ...], seq: int, start: Contents
    ) -> Contents:
        after, rows = self.read(artifact, edits, seq, start)
        return self._holding(after, Inventory.of(rows))

    def _holding(self, contents: Contents, inventory: Inventory) -> Contents:
        return self.indexed(replace(contents, inventory=inventory), inventory.repository.values)

    def _replacing(self, after: Contents) -> Change:
        def apply() -> Undo:
            before, self.contents = self.contents, after

            def undo() -> None:
                self.contents = before

            return undo

        return Change(apply)
