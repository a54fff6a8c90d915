"""The writer's memory of an ELDER lane: the texts of earlier edits, for replay."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.elder.config import ElderConfig
from errata.editing.lane.commits import Commit, LaneEntry, Restoration, Reversal
from errata.editing.lane.inventory import FACT_BYTES, pack_facts, unpack_facts
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
        answer: hex digest of its subject and target, which it shares with rephrases of it that are
            edits of their own; zeros in memories of older versions.
        allocation: P, (L, N) bool.
        texts: the prompt, then its other texts, each with the target.
        neighbours: queries that the edit must not claim, (m, d_q); without calibrated codes, m = 0.
    """

    edit: str
    fact: str
    answer: str
    allocation: Tensor
    texts: tuple[TokenRow, ...]
    neighbours: Tensor = field(default_factory=lambda: torch.zeros(0, 0))


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

    def neighbours(self) -> list[Tensor]:
        """The queries of all edits' neighbours, (m, d_q) each; m can be 0."""
        return [texts.neighbours for texts in self._texts.values()]

    def in_bank(self, others: Collection[str]) -> list[EditTexts]:
        """The edits of the bank that learns, oldest first.

        Args:
            others: names of the edits of other banks.
        """
        return [texts for name, texts in self._texts.items() if name not in others]

    def newest(self) -> list[EditTexts]:
        """The newest edit of each fact, oldest first."""
        return list({texts.fact: texts for texts in self._texts.values()}.values())

    def drawn(
        self, without: Collection[str], seed: int, others: Collection[str] = ()
    ) -> list[EditTexts]:
        """Draws the earlier edits that are replayed with a batch, at most the newest per fact.

        Args:
            without: facts of the batch itself, which are left out.
            seed: of the batch.
            others: names of the edits of other banks, which are left out.
        """
        if self._config.replay == "none":
            return []
        candidates = [
            texts
            for texts in self.newest()
            if texts.fact not in without and texts.edit not in others
        ]
        if self._config.replay == "reservoir":
            # The facts with the lowest hashes are a uniform sample, which new edits and reversals
            # change as little as possible.
            candidates = sorted(candidates, key=_rank)[: self._config.replay_budget]
        count = min(self._config.replay_pool, len(candidates))
        return random.Random(f"{seed}/replay").sample(candidates, count)


def answer_of(subject: str, target: str) -> str:
    """The digest of a subject and its answer: what edits say in other words share it."""
    return hashlib.sha256(f"{subject.strip()}|{target.strip()}".encode()).hexdigest()


def _rank(texts: EditTexts) -> str:
    return hashlib.sha256(texts.fact.encode()).hexdigest()


def pack_texts(batch: Sequence[EditTexts]) -> Artifact:
    """A batch as tensors: ids (n, T) of its texts, and each text's edit index and lengths."""
    rows = [(owner, text) for owner, edit in enumerate(batch) for text in edit.texts]
    width = max(len(text.ids) for _, text in rows)
    ids = torch.tensor([[*text.ids, *[0] * (width - len(text.ids))] for _, text in rows])
    lengths = [[owner, len(text.ids), text.num_target] for owner, text in rows]
    counts = torch.tensor([len(edit.neighbours) for edit in batch], dtype=torch.int32)
    neighbours = {}
    if bool(counts.any()):
        queries = torch.cat([edit.neighbours for edit in batch if len(edit.neighbours)]).cpu()
        neighbours = {"neighbours": queries, "neighbour_counts": counts}
    return Artifact(
        {
            **neighbours,
            "ids": ids.to(torch.int32),
            "rows": torch.tensor(lengths, dtype=torch.int32),
            "facts": pack_facts([texts.fact for texts in batch]),
            "answers": pack_facts([texts.answer for texts in batch]),
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
    answers = tuple("00" * FACT_BYTES for _ in facts)
    if "answers" in memory.tensors:
        answers = unpack_facts(memory.tensors["answers"])
    codes = memory.tensors["allocations"].bool()
    neighbours = [torch.zeros(0, 0)] * len(edits)
    if "neighbours" in memory.tensors:
        counts = memory.tensors["neighbour_counts"].tolist()
        neighbours = list(memory.tensors["neighbours"].split(counts))
    return [
        EditTexts(edit, facts[n], answers[n], codes[n], tuple(texts[n]), neighbours[n])
        for n, edit in enumerate(edits)
    ]


def _restored(table: LaneTable | None) -> dict[str, EditTexts]:
    found = {}
    for unit in [] if table is None else units_of(table):
        edit = bytes(unit[_EDIT].tolist()).decode()
        (found[edit],) = unpack_texts([edit], Artifact(unit, {}))
    return found
