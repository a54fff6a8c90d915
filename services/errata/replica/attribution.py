"""Combines the attributions of several lanes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor

from errata.editing.lane.contract import Attribution, Probe


class CombinedAttribution:
    """Names the edits of all lanes that shaped a forward pass, newest first (P10)."""

    def __init__(self, parts: Sequence[Attribution], commit_seq: Mapping[str, int]) -> None:
        """Combines the lanes' attributions.

        Args:
            parts: one per lane.
            commit_seq: edit → position of its commit, which orders the names.
        """
        self._parts = parts
        self._commit_seq = commit_seq
        self._stack = ExitStack()

    def probes(self) -> list[Probe]:
        """Those of all lanes."""
        return [probe for part in self._parts for probe in part.probes()]

    def newest_first(self, names: Collection[str]) -> list[str]:
        """The names, ordered by their commits."""
        return sorted(names, key=lambda name: -self._commit_seq[name])

    def __enter__(self) -> Attribution:
        """Starts to record in every lane."""
        for part in self._parts:
            self._stack.enter_context(part)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops recording."""
        self._stack.close()

    def edits(self, attention_mask: Tensor) -> list[list[str]]:
        """As `Attribution.edits`."""
        by_lane = [part.edits(attention_mask) for part in self._parts]
        rows = [[name for names in row for name in names] for row in zip(*by_lane, strict=True)]
        return [self.newest_first(row) for row in rows]
