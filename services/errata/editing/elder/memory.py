"""What the writer keeps of an ELDER lane: the texts of earlier edits, for replay."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.elder.config import ElderConfig
from errata.editing.lane.commits import Commit, LaneEntry, Reversal
from errata.editing.lane.inventory import pack_facts, unpack_facts
from errata.editing.model.prompts import TokenRow
from errata.errors import ArtifactCorruptError


@dataclass(frozen=True, eq=False, slots=True)
class EditTexts:
    """The texts that an edit is trained on.

    Attributes:
        edit: its name.
        fact: hex digest of what it is about.
        allocation: P, (L, N) bool.
        texts: prompt and rephrasings, each with the target; the prompt first.
    """

    edit: str
    fact: str
    allocation: Tensor
    texts: tuple[TokenRow, ...]


class ElderMemory:
    """Texts of committed edits that are not reverted, oldest first; immutable."""

    def __init__(self, config: ElderConfig, texts: Mapping[str, EditTexts] | None = None) -> None:
        """Remembers `texts`, by edit; nothing if there are none."""
        self._config = config
        self._texts = texts or {}

    def after(self, entry: LaneEntry) -> ElderMemory:
        """The memory after an entry of the lane.

        Raises:
            ArtifactCorruptError: a commit's memory does not belong to its edits.
        """
        match entry:
            case Commit(edits=edits, memory=Artifact() as memory):
                more = {texts.edit: texts for texts in unpack_texts(edits, memory)}
                return ElderMemory(self._config, {**self._texts, **more})
            case Reversal(edits=edits):
                gone = frozenset(edits)
                left = {name: made for name, made in self._texts.items() if name not in gone}
                return ElderMemory(self._config, left)
            case _:
                return self

    def allocations(self) -> dict[str, Tensor]:
        """What each fact was given."""
        return {texts.fact: texts.allocation for texts in self._texts.values()}

    def newest(self) -> list[EditTexts]:
        """The newest edit of each fact, oldest first."""
        return list({texts.fact: texts for texts in self._texts.values()}.values())

    def drawn(self, without: Collection[str], seed: int) -> list[EditTexts]:
        """The earlier edits that a batch is fitted along with, the newest of each fact.

        Args:
            without: facts of the batch itself.
            seed: of the batch.
        """
        known = [texts for texts in self.newest() if texts.fact not in without]
        if self._config.replay == "none":
            return []
        if self._config.replay == "reservoir":
            # The facts whose digests are lowest are a uniform sample that arrivals and reversals
            # change as little as possible.
            known = sorted(known, key=_rank)[: self._config.replay_budget]
        count = min(self._config.replay_pool, len(known))
        return random.Random(f"{seed}/replay").sample(known, count)


def _rank(texts: EditTexts) -> str:
    return hashlib.sha256(texts.fact.encode()).hexdigest()


def pack_texts(batch: Sequence[EditTexts]) -> Artifact:
    """A batch as tensors: ids (n, T) of its texts, and for each its owner and its lengths."""
    rows = [(number, text) for number, made in enumerate(batch) for text in made.texts]
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
    """Reads what `pack_texts` made.

    Raises:
        ArtifactCorruptError: it is of other edits.
    """
    facts = unpack_facts(memory.tensors["facts"])
    if len(facts) != len(edits):
        raise ArtifactCorruptError(f"the memory holds {len(facts)} edits instead of {len(edits)}.")
    texts: list[list[TokenRow]] = [[] for _ in edits]
    lines = zip(memory.tensors["ids"].tolist(), memory.tensors["rows"].tolist(), strict=True)
    for ids, (owner, length, num_target) in lines:
        texts[owner].append(TokenRow(tuple(ids[:length]), num_target))
    made = zip(edits, facts, memory.tensors["allocations"].bool(), texts, strict=True)
    return [EditTexts(edit, fact, code, tuple(rows)) for edit, fact, code, rows in made]
