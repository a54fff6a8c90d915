"""Honest splits: training records without some relations, and without some wordings of the rest.

What is withheld depends on the texts and the seed alone, through SHA-256, so every machine makes
the same split.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.editing.retriever.frames import Frames
from errata.errors import InvalidRequestError
from errata.evaluation.data.fields import read_text
from errata.evaluation.data.record import Record
from errata.evaluation.data.relations import Relations
from errata.evaluation.data.wordings import SLOT


@dataclass(frozen=True, slots=True)
class Split:
    """What a meta-training does not see.

    Attributes:
        relations: name → wordings of its prompts.
        withheld_relations: names.
        withheld_wordings: of prompts, rephrases and locality prompts of the other relations.
    """

    relations: Mapping[str, Sequence[str]]
    withheld_relations: frozenset[str]
    withheld_wordings: frozenset[str]

    @classmethod
    def draw(
        cls, records: Sequence[Record], relations: Relations, share: float, seed: int
    ) -> Split:
        """Withholds a share of the relations, and of the wordings of each other relation.

        Args:
            records: of training and, if they are known, of editing.
            relations: of the records.
            share: between 0 and 1, of both.
            seed: chooses them.
        """
        prompts: defaultdict[str, set[str]] = defaultdict(set)
        spoken: defaultdict[str, set[str]] = defaultdict(set)
        for record in records:
            name = relations.of(record)
            texts = (record.prompt, *record.rephrases)
            said = [relations.wordings.of_text(text, record.subject) for text in texts]
            prompts[name].update(said[:1])
            spoken[name].update(said)
        prompts.pop("", None)
        away = _drawn(prompts, share, seed)
        kept = [name for name in prompts if name not in away]
        wordings = {w for name in kept for w in _drawn(spoken[name] - {""}, share, seed)}
        return cls(
            {name: sorted(prompts[name]) for name in sorted(prompts)},
            frozenset(away),
            frozenset(wordings),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of `split.json`; subjects' places are written as {}."""
        return {
            "relations": {
                name: {
                    "withheld": name in self.withheld_relations,
                    "wordings": [_shown(wording) for wording in wordings],
                }
                for name, wordings in self.relations.items()
            },
            "withheld_relations": sorted(self.withheld_relations),
            "withheld_wordings": sorted(map(_shown, self.withheld_wordings)),
        }

    @classmethod
    def read(cls, path: Path) -> Split:
        """Reads `split.json`.

        Raises:
            InvalidRequestError: it is missing or has another form.
        """
        try:
            found = json.loads(read_text(path))
            return cls(
                {
                    name: [_slotted(wording) for wording in relation["wordings"]]
                    for name, relation in found["relations"].items()
                },
                frozenset(found["withheld_relations"]),
                frozenset(map(_slotted, found["withheld_wordings"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequestError(
                f"{path} is not a split of `errata bench split`: {error!r}.", field="split"
            ) from error


class Withholding:
    """Training records as a split allows them."""

    def __init__(
        self, split: Split, records: Sequence[Record], relations: Relations, seed: int
    ) -> None:
        """Collects the rephrases that may stand in for withheld ones.

        Args:
            split: what is withheld.
            records: of training.
            relations: that the split was drawn from.
            seed: chooses stand-ins.
        """
        self._split, self._wordings, self._seed = split, relations.wordings, seed
        self._rephrases: defaultdict[str, set[str]] = defaultdict(set)
        for record in records:
            wording = self._wording(record.prompt, record.subject)
            said = (self._wording(text, record.subject) for text in record.rephrases)
            self._rephrases[wording] |= {text for text in said if text and self._is_allowed(text)}
        self._relation_of = {
            wording: name for name, wordings in split.relations.items() for wording in wordings
        }

    def allowed(self, record: Record) -> tuple[list[str], list[tuple[str, str]]] | None:
        """The rephrases and locality prompts that a record may be trained with.

        A withheld rephrase is replaced by a rephrase of another record with the same prompt, with
        the record's subject inserted; a withheld locality prompt asks about its subject in the
        wording of the record's prompt.

        Returns:
            None if the whole record is withheld.
        """
        wording = self._wording(record.prompt, record.subject)
        is_withheld = self._relation_of.get(wording) in self._split.withheld_relations
        if not wording or is_withheld or not self._is_allowed(wording):
            return None
        rng = random.Random(f"{self._seed}/{record.case_id}")
        rephrases = [
            made
            for text in record.rephrases
            if (made := self._allowed_rephrase(text, record.subject, wording, rng))
        ]
        locality = list(self._allowed_locality(record, wording))
        return (rephrases, locality) if rephrases and locality else None

    def _allowed_rephrase(self, text: str, subject: str, prompt: str, rng: random.Random) -> str:
        said = self._wording(text, subject)
        if said and self._is_allowed(said):
            return text
        others = sorted(self._rephrases[prompt])
        return Frames.filled(rng.choice(others), subject) if others else ""

    def _allowed_locality(self, record: Record, prompt: str) -> Iterator[tuple[str, str]]:
        for text, answer in record.locality:
            said, subject = self._wordings.matching(text, self._relation_of)
            if self._relation_of.get(said) in self._split.withheld_relations:
                continue
            allowed = self._is_allowed(said)
            yield (text if allowed else Frames.filled(prompt, subject)), answer

    def _wording(self, text: str, subject: str) -> str:
        return self._wordings.of_text(text, subject)

    def _is_allowed(self, wording: str) -> bool:
        return wording not in self._split.withheld_wordings


def _drawn(
    names: Sequence[str] | set[str] | Mapping[str, Any], share: float, seed: int
) -> set[str]:
    """A share of names, by the digests of seed and name."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{name}".encode()).digest()

    return set(sorted(names, key=key)[: round(share * len(names))])


def _shown(wording: str) -> str:
    return wording.replace(SLOT, "{}")


def _slotted(text: str) -> str:
    return str(text).replace("{}", SLOT)
