"""The writer's memory of an ELDER lane: the texts of earlier edits, for replay."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.elder.config import ElderConfig
from errata.editing.lane.commits import Commit, LaneEntry, Restoration, Reversal
from errata.editing.lane.inventory import pack_facts, unpack_facts
from errata.editing.lane.pages import LaneTable, units_of
from errata.editing.model.prompts import TokenRow
from errata.errors import ArtifactCorruptError

_UNIT = "edit."
_EDIT = "edit"  # UTF-8 of its name


@dataclass(frozen=True, eq=False, slots=True)
class EditTexts:
    """The texts that an edit is trained on.

    Attributes:
        edit: name of the edit.
        fact: hex digest of what it is about.
        allocation: P, (L, N) bool.
        texts: the prompt, then its other texts, each with the target.
    """

    edit: str
    fact: str
    allocation: Tensor
    texts: tuple[TokenRow, ...]


class ElderMemory:
    """Texts of the active edits, oldest first; immutable."""

    def __init__(self, config: ElderConfig, texts: Mapping[str, EditTexts] | None = None) -> None:
        """Holds `texts` by edit name; empty if None."""
        self._config = config
        self._texts = texts or {}

    def after(self, entry: LaneEntry) -> ElderMemory:
        """The memory after an entry of the lane.

        Raises:
            ArtifactCorruptError: a commit's memory does not belong to its edits.
        """
        match entry:
            case Commit(edits=edits, memory=Artifact() as memory):
                added = {texts.edit: texts for texts in unpack_texts(edits, memory)}
                return ElderMemory(self._config, {**self._texts, **added})
            case Reversal(edits=edits):
                reverted = frozenset(edits)
                kept = {name: texts for name, texts in self._texts.items() if name not in reverted}
                return ElderMemory(self._config, kept)
            case Restoration(dump=dump):
                return ElderMemory(self._config, _restored(dump.memory))
            case _:
                return self

    def dump(self) -> LaneTable | None:
        """The texts as a table of one unit for each edit; None if there are none."""
        tensors: dict[str, Tensor] = {}
        for number, texts in enumerate(self._texts.values()):
            name = torch.frombuffer(bytearray(texts.edit.encode()), dtype=torch.uint8)
            own = {**pack_texts([texts]).tensors, _EDIT: name}
            tensors |= {f"{_UNIT}{number}.{key}": tensor for key, tensor in own.items()}
        return LaneTable((), Artifact(tensors, {}), units=_UNIT) if tensors else None

    def allocations(self) -> dict[str, Tensor]:
        """The allocation of each fact."""
        return {texts.fact: texts.allocation for texts in self._texts.values()}

    def newest(self) -> list[EditTexts]:
        """The newest edit of each fact, oldest first."""
        return list({texts.fact: texts for texts in self._texts.values()}.values())

    def drawn(self, without: Collection[str], seed: int) -> list[EditTexts]:
        """Draws the earlier edits that are replayed with a batch, at most the newest per fact.

        Args:
            without: facts of the batch itself, which are left out.
            seed: of the batch.
        """
        candidates = [texts for texts in self.newest() if texts.fact not in without]
        if self._config.replay == "none":
            return []
        if self._config.replay == "reservoir":
            # The facts with the lowest hashes are a uniform sample, which new edits and reversals
            # change as little as possible.
            candidates = sorted(candidates, key=_rank)[: self._config.replay_budget]
        count = min(self._config.replay_pool, len(candidates))
        return random.Random(f"{seed}/replay").sample(candidates, count)


def _rank(texts: EditTexts) -> str:
    return hashlib.sha256(texts.fact.encode()).hexdigest()


def pack_texts(batch: Sequence[EditTexts]) -> Artifact:
    """A batch as tensors: ids (n, T) of its texts, and each text's edit index and lengths."""
    rows = [(owner, text) for owner, edit in enumerate(batch) for text in edit.texts]
    width = max(len(text.ids) for _, text in rows)
    ids = torch.tensor([[*text.ids, *[0] * (width - len(text.ids))] for _, text in rows])
    lengths = [[owner, len(text.ids), text.num_target] for owner, text in rows]
    return Artifact(
        {
            "ids": ids.to(torch.int32),
            "rows": torch.tensor(lengths, dtype=torch.int32),
            "facts": pack_facts([texts.fact for texts in batch]),
            "allocations": torch.stack([texts.allocation for texts in batch]).to(torch.uint8),
        },
        {},
    )


def unpack_texts(edits: Sequence[str], memory: Artifact) -> list[EditTexts]:
    """Reads the output of `pack_texts`.

    Raises:
        ArtifactCorruptError: it belongs to other edits.
    """
    facts = unpack_facts(memory.tensors["facts"])
    if len(facts) != len(edits):
        raise ArtifactCorruptError(f"the memory holds {len(facts)} edits instead of {len(edits)}.")
    texts: list[list[TokenRow]] = [[] for _ in edits]
    lines = zip(memory.tensors["ids"].tolist(), memory.tensors["rows"].tolist(), strict=True)
    for ids, (owner, length, num_target) in lines:
        texts[owner].append(TokenRow(tuple(ids[:length]), num_target))
    fields = zip(edits, facts, memory.tensors["allocations"].bool(), texts, strict=True)
    return [EditTexts(edit, fact, code, tuple(rows)) for edit, fact, code, rows in fields]


def _restored(table: LaneTable | None) -> dict[str, EditTexts]:
    found = {}
    for unit in [] if table is None else units_of(table):
        edit = bytes(unit[_EDIT].tolist()).decode()
        (found[edit],) = unpack_texts([edit], Artifact(unit, {}))
    return found
