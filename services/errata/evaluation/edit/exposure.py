"""What a run's lane model and its edits have seen of the records' questions.

A rephrase in a wording that the lane model learned from, or that its edit was learned with,
measures less than one in a new wording. Figures are therefore also given by group:

| group | a text is in it if |
|---|---|
| `wording_seen` | its wording is in the lane model's frames, or was submitted with its edit |
| `wording_unseen` | its wording is new, and the lane model learned other wordings of the relation |
| `relation_unseen` | the lane model learned no prompt of its relation, or there is none |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.editing.artifact import Artifact
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.lane_model import read_bytes
from errata.evaluation.data.record import Record
from errata.evaluation.data.relations import Relations
from errata.evaluation.data.split import Split
from errata.evaluation.data.wordings import Wordings
from errata.evaluation.edit.claims import RecordClaims
from errata.evaluation.edit.confidence import half_width
from errata.evaluation.judge import Answers, Measures, shares

SEEN, UNSEEN, NEW_RELATION = "wording_seen", "wording_unseen", "relation_unseen"
GROUPS = (SEEN, UNSEEN, NEW_RELATION)
_AT_REPHRASES = ("generality.", "generalization", "claims.rephrases", "claims.others")


class Exposure:
    """Sorts the records' questions into groups."""

    def __init__(self, records: Sequence[Record], frames: Frames, split: Split | None) -> None:
        """Takes what the lane model was trained with.

        Args:
            records: of the data set, from which relations are derived.
            frames: of the lane model; empty without one.
            split: names the relations; None to derive them from the records alone.
        """
        self._relations = Relations(records)
        self._names = dict(self._relations.by_wording)
        if split is not None:
            for name, wordings in split.relations.items():
                self._names |= dict.fromkeys(wordings, name)
        known = [
            *(Frames.frame(text, r.subject) for r in records for text in (r.prompt, *r.rephrases)),
            *(frame for prompt, others in frames.by_prompt.items() for frame in (prompt, *others)),
        ]
        self._wordings = Wordings(known)
        prompts = {self._wordings.of(frame) for frame in frames.by_prompt}
        others = (frame for said in frames.by_prompt.values() for frame in said)
        self.seen = frozenset(
            _folded(wording) for wording in (*prompts, *map(self._wordings.of, others))
        )
        self.seen_relations = frozenset(
            self._names[wording] for wording in prompts if wording in self._names
        )
        self._split = split

    def group(self, record: Record, text: str) -> str:
        """The group of one of the record's questions.

        Args:
            record: whose edit may have been learned with the rephrasings that it brought.
            text: its prompt, or one of its rephrases.
        """
        wording = self._wordings.of_text(text, record.subject)
        brought = {_folded(self._wordings.of_text(x, record.subject)) for x in record.brought}
        if wording and _folded(wording) in brought:
            return SEEN
        asked = self._wordings.of_text(record.prompt, record.subject)
        if self._names.get(asked, "") not in self.seen_relations:
            return NEW_RELATION
        return SEEN if wording and _folded(wording) in self.seen else UNSEEN

    def leaks(self) -> dict[str, list[str]]:
        """What the split withholds and the lane model has seen all the same; empty without."""
        if self._split is None:
            return {"relations": [], "wordings": []}
        return {
            "relations": sorted(self._split.withheld_relations & self.seen_relations),
            "wordings": sorted(
                wording
                for wording in self._split.withheld_wordings
                if _folded(wording) in self.seen
            ),
        }


def frames_in(folder: Path | None) -> Frames:
    """The frames of the lane model in a folder; none without a lane model.

    A retriever may have been trained on wordings that its edits are not learned with, and that its
    frames therefore lack: those of the gate that it started from, and those of single facts
    (`GateModel.learned`).

    Raises:
        ModelNotFoundError: the folder contains no lane model.
        ArtifactCorruptError: the file is damaged.
    """
    if folder is None:
        return Frames({})
    metadata = Artifact.from_bytes(read_bytes(folder)).metadata
    frames = Frames.of_json(metadata.get("frames", "{}"))
    more: dict[str, dict[str, int]] = {
        wording: {} for wording in json.loads(metadata.get("wordings", "[]"))
    }
    return Frames({**more, **frames.by_prompt})


@dataclass(frozen=True, slots=True)
class GroupedFigures:
    """Figures by group.

    Attributes:
        means: `{group}.{figure}` of the groups that occur, and how many are in them.
        half_widths: of 95 % intervals over records.
    """

    means: Measures
    half_widths: Measures


def grouped(
    exposure: Exposure,
    records: Sequence[Record],
    before: Sequence[Answers],
    now: Sequence[Answers],
    claims: Sequence[RecordClaims],
) -> GroupedFigures:
    """Figures of each group of questions.

    Figures at prompts, and locality, count a record in the group of its prompt; figures at
    rephrases count each rephrase in its own group.

    Args:
        exposure: sorts the questions.
        records: that were edited.
        before: their answers before the first edit.
        now: their current answers.
        claims: of the records; empty if the system does not route.

    Returns:
        The figures; `{group}.prompts` and `{group}.rephrases` are the numbers of questions.
    """
    rows: dict[str, dict[str, list[float]]] = {group: {} for group in GROUPS}
    counts = {f"{group}.{what}": 0.0 for group in GROUPS for what in ("prompts", "rephrases")}
    for number, record in enumerate(records):
        groups = [exposure.group(record, text) for text in record.rephrases]
        own = exposure.group(record, record.prompt)
        counts[f"{own}.prompts"] += 1
        for group in {own, *groups}:
            chosen = [i for i, other in enumerate(groups) if other == group]
            counts[f"{group}.rephrases"] += len(chosen)
            figures = _part(record, before[number], now[number], chosen)
            if claims:
                figures |= _claimed(claims[number], chosen)
            for name, value in figures.items():
                if group == own or name.startswith(_AT_REPHRASES):
                    rows[group].setdefault(name, []).append(value)
    columns = {f"{group}.{name}": row for group in GROUPS for name, row in rows[group].items()}
    present = {name: count for name, count in counts.items() if rows[name.partition(".")[0]]}
    return GroupedFigures(
        {**present, **{name: fmean(values) for name, values in columns.items()}},
        {name: half_width(values) for name, values in columns.items()},
    )


def _part(record: Record, before: Answers, now: Answers, chosen: Sequence[int]) -> dict[str, float]:
    """The record's shares, those at rephrases of the chosen ones alone."""
    part = replace(
        now,
        rephrases_new=tuple(now.rephrases_new[i] for i in chosen),
        rephrases_true=tuple(now.rephrases_true[i] for i in chosen if now.rephrases_true),
        whole=None,
        chat=None,
        ripples={},
    )
    return shares(record, before, part)


def _claimed(claims: RecordClaims, chosen: Sequence[int]) -> dict[str, float]:
    found = {"claims.prompts": float(claims.prompt == "own")}
    if claims.locality:
        found["claims.unrelated"] = fmean(item != "none" for item in claims.locality)
    if chosen:
        found["claims.rephrases"] = fmean(claims.rephrases[i] == "own" for i in chosen)
        found["claims.others"] = fmean(claims.rephrases[i] == "other" for i in chosen)
    return found


def described(exposure: Exposure, split: Path | None) -> dict[str, Any]:
    """JSON about what the lane model saw, for `result.json`."""
    return {
        "wordings_seen": len(exposure.seen),
        "relations_seen": sorted(exposure.seen_relations),
        "split": None if split is None else json.loads(split.read_text(encoding="utf-8"))["train"],
        "leaks": exposure.leaks(),
    }


def _folded(wording: str) -> str:
    return wording.casefold()
