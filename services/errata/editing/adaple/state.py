"""A replica's state of an AdaPLE lane: every commit's factors; the weights hold their sum."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from errata.editing.adaple.attribution import Directions
from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.packing import Committed, read
from errata.editing.adaple.snapshots import dump, restore
from errata.editing.lane.commits import Commit, Compaction
from errata.editing.lane.pages import LaneTable
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import Contribution, ContributionId, EditedWeights, Undo
from errata.errors import ArtifactCorruptError, EditNotRevertibleError, InvalidRequestError


class AdapleState:
    """The AdaPLE lane of one replica.

    An edit is fitted on weights without the earlier edits of its own fact, and replaces them. So a
    repeated edit does not depend on the first one: if either is reverted, the other has its effect.
    """

    def __init__(
        self, model: CausalLM, config: AdapleConfig, weights: EditedWeights, lane: str
    ) -> None:
        """Opens an empty lane.

        Args:
            model: of the replica.
            config: of the lane.
            weights: shared by all lanes of the model.
            lane: name of the lane.

        Raises:
            InvalidRequestError: a configured layer does not exist in the model, or its target does
                not fit the model's blocks.
        """
        if config.target == "hidden" and not model.adds_plainly:
            raise InvalidRequestError(
                f"target 'hidden' needs an FFN whose output is added to the hidden state as it is; "
                f"{type(model.model).__name__} has a norm or a multiplier in between. Supported "
                "is target 'ffn', the default.",
                field="config.target",
            )
        self.model, self.config = model, config
        self.layers = config.resolve_layers(model.num_layers)
        self._weights, self._lane = weights, lane
        weights.reserve(self.layers)
        self._commits: dict[int, Committed] = {}
        self._directions: Directions | None = None

    def prepare_commit(self, commit: Commit) -> Change:
        """Checks a commit and computes the weights with it, separate from the model's own.

        Raises:
            BaseModelMismatchError: it was made for another base model; nothing changed.
            ArtifactCorruptError: it does not fit the lane or the model; nothing changed.
        """
        if commit.seq in self._commits or not _are_new(commit.edits, self._commits.values()):
            raise ArtifactCorruptError(f"commit {commit.seq} is already applied.", seq=commit.seq)
        return self._prepare({commit.seq: read(commit, self.model, self.config, self.layers)})

    def prepare_reversal(self, edits: Collection[str]) -> Change:
        """Computes the weights without the columns of `edits`, rebuilt from the base in order.

        Raises:
            EditNotRevertibleError: an edit is not present in this lane; nothing changed.
        """
        wanted = set(edits)
        changes: dict[int, Committed] = {}
        for seq, commit in self._commits.items():
            reverted = torch.tensor([name in wanted for name in commit.edits])
            reverted = reverted.to(commit.present.device) & commit.present
            if bool(reverted.any()):
                changes[seq] = replace(commit, present=commit.present & ~reverted)
                columns = reverted.nonzero()[:, 0].tolist()
                wanted -= {commit.edits[column] for column in columns}
        if wanted:
            raise EditNotRevertibleError(
                f"{', '.join(sorted(wanted))}: not committed in lane {self._lane}, or already "
                "reverted."
            )
        return self._prepare(changes)

    def prepare_compaction(self, entry: Compaction) -> Change:
        """Computes the weights with one commit in place of all.

        Raises:
            BaseModelMismatchError: it was made for another base model; nothing changed.
            ArtifactCorruptError: it does not fit the lane or the model; nothing changed.
        """
        if set(entry.edits) != set(self.names):
            raise ArtifactCorruptError(
                f"compaction {entry.seq} does not carry the active edits of lane {self._lane}.",
                seq=entry.seq,
            )
        commit = Commit(entry.seq, entry.edits, entry.artifact)
        changes = {entry.seq: read(commit, self.model, self.config, self.layers)}
        return self._prepare(changes, dropped=frozenset(self._commits))

    def prepare_restoration(self, table: LaneTable | None) -> Change:
        """Computes the weights of a lane that `dump` dumped; this one has no commit yet.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: the table does not fit.
        """
        return self._prepare(restore(table, self.model, self.config, self.layers))

    def dump(self) -> Callable[[], LaneTable | None]:
        """Captures the commits; the returned function copies them, on any thread."""
        commits = self._commits
        return lambda: dump(self.model, self.config, commits)

    def edits_of(self, fact: str) -> tuple[str, ...]:
        """Present edits about a fact (`inventory.fact_of`), oldest first."""
        return tuple(
            name
            for _, commit in sorted(self._commits.items())
            for name, edit_fact, is_present in zip(
                commit.edits, commit.facts, commit.present.tolist(), strict=False
            )
            if is_present and edit_fact == fact
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Edits that are not reverted, in the order of their commits."""
        return tuple(
            name
            for _, commit in sorted(self._commits.items())
            for name, is_present in zip(commit.edits, commit.present.tolist(), strict=True)
            if is_present
        )

    def columns_of(self, edit: str) -> dict[int, tuple[Tensor, Tensor]]:
        """Layer → an edit's columns of both factors, (d,) and (d_ff,) fp32."""
        commit = next(found for found in self._commits.values() if edit in found.edits)
        number = commit.edits.index(edit)
        return {
            layer: (delta.left[:, number], delta.right[:, number])
            for layer, delta in commit.factors.items()
        }

    def digest(self) -> str:
        """SHA-256, hex, of the current weights of the lane's layers in the model."""
        return self._weights.digest(self.layers)

    def directions(self) -> Directions:
        """Acting edits, newest first, and their input directions in the last edited layer."""
        # Read at every prefill, but changed only by commits and reverts.
        if self._directions is None:
            self._directions = self._compute_directions()
        return self._directions

    def _compute_directions(self) -> Directions:
        names: list[str] = []
        columns = [torch.zeros(self.model.d_ff, 0, device=self.model.device)]
        for _, commit in sorted(self._commits.items(), reverse=True):
            order = commit.acting.nonzero()[:, 0].flip(0)
            names += [commit.edits[int(column)] for column in order.tolist()]
            scaled = commit.factors[self.layers[-1]].right / commit.gains[-1]
            columns.append(scaled[:, order])
        return Directions.of(names, torch.cat(columns, dim=-1))

    def _prepare(
        self, changes: Mapping[int, Committed], dropped: Collection[int] = frozenset()
    ) -> Change:
        kept = {seq: commit for seq, commit in self._commits.items() if seq not in dropped}
        after = dict(sorted({**kept, **changes}.items()))
        replaced = _replaced(after.values())
        toggled = replaced ^ _replaced(self._commits.values())
        for seq, commit in after.items():
            if seq in changes or not toggled.isdisjoint(commit.edits):
                after[seq] = commit.with_replaced(replaced)
        contributions: dict[ContributionId, Contribution | None] = {
            (seq, self._lane): (
                commit.contribution(self.config) if bool(commit.acting.any()) else None
            )
            for seq, commit in after.items()
            if commit is not self._commits.get(seq)
        }
        contributions |= {(seq, self._lane): None for seq in dropped}
        swap_weights = self._weights.prepare(contributions)

        def swap() -> Undo:
            before = self._commits
            undo_weights = swap_weights()
            self._commits, self._directions = after, None

            def undo() -> None:
                undo_weights()
                self._commits, self._directions = before, None

            return undo

        return Change(swap, alters_weights=True)


def _replaced(commits: Collection[Committed]) -> frozenset[str]:
    """Edits that a present edit replaces."""
    return frozenset(
        earlier
        for commit in commits
        if any(commit.replaced)
        for names, is_present in zip(commit.replaced, commit.present.tolist(), strict=True)
        if is_present
        for earlier in names
    )


def _are_new(edits: tuple[str, ...], commits: Collection[Committed]) -> bool:
    known = {name for commit in commits for name in commit.edits}
    return len(set(edits)) == len(edits) and known.isdisjoint(edits)
