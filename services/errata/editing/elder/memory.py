"""What the writer keeps of an ELDER lane: the texts of earlier edits, for replay."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.elder.config import ElderConfig
from errata.editing.lane.inventory import pack_facts, unpack_facts
from errata.editing.model.prompts import TokenRow
from errata.errors import ArtifactCorruptError


@dataclass(frozen=True, eq=False, slots=True)
class Lesson:
    """An edit as it is taught.

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
    """Texts of committed edits that are not reverted, oldest first."""

    def __init__(self, config: ElderConfig) -> None:
        """Starts empty."""
        self._config = config
        self._lessons: dict[str, Lesson] = {}

    def add(self, edits: tuple[str, ...], memory: Artifact) -> None:
        """Adds the texts of a committed batch.

        Raises:
            ArtifactCorruptError: they do not belong to these edits.
        """
        for lesson in unpack_lessons(edits, memory):
            self._lessons[lesson.edit] = lesson

    def remove(self, edits: Sequence[str]) -> None:
        """Forgets reverted edits; unknown names are ignored."""
        for edit in edits:
            self._lessons.pop(edit, None)

    def allocations(self) -> dict[str, Tensor]:
        """What each fact was given."""
        return {lesson.fact: lesson.allocation for lesson in self._lessons.values()}

    def lessons(self) -> list[Lesson]:
        """The newest edit of each fact, oldest first."""
        return list({lesson.fact: lesson for lesson in self._lessons.values()}.values())

    def drawn(self, without: Collection[str], seed: int) -> list[Lesson]:
        """The earlier edits that a batch is fitted along with, the newest of each fact.

        Args:
            without: facts of the batch itself.
            seed: of the batch.
        """
        known = [lesson for lesson in self.lessons() if lesson.fact not in without]
        if self._config.replay == "none":
            return []
        if self._config.replay == "reservoir":
            # The facts whose digests are lowest are a uniform sample that arrivals and reversals
            # change as little as possible.
            known = sorted(known, key=_rank)[: self._config.replay_budget]
        count = min(self._config.replay_pool, len(known))
        return random.Random(f"{seed}/replay").sample(known, count)


def _rank(lesson: Lesson) -> str:
    return hashlib.sha256(lesson.fact.encode()).hexdigest()


def pack_lessons(lessons: Sequence[Lesson]) -> Artifact:
    """A batch as tensors: ids (n, T) of its texts, and for each its owner and its lengths."""
    rows = [(number, text) for number, made in enumerate(lessons) for text in made.texts]
    width = max(len(text.ids) for _, text in rows)
    ids = torch.tensor([[*text.ids, *[0] * (width - len(text.ids))] for _, text in rows])
    told = [[owner, len(text.ids), text.num_target] for owner, text in rows]
    return Artifact(
        {
            "ids": ids.to(torch.int32),
            "rows": torch.tensor(told, dtype=torch.int32),
            "facts": pack_facts([lesson.fact for lesson in lessons]),
            "allocations": torch.stack([lesson.allocation for lesson in lessons]).to(torch.uint8),
        },
        {},
    )


def unpack_lessons(edits: Sequence[str], memory: Artifact) -> list[Lesson]:
    """Reads what `pack_lessons` made.

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
    return [Lesson(edit, fact, code, tuple(rows)) for edit, fact, code, rows in made]
