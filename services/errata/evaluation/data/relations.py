"""Relations of a data set's records, where the file does not name them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from errata.editing.retriever.frames import Frames
from errata.evaluation.data.record import Record
from errata.evaluation.data.wordings import SLOT, Wordings

_FEWEST_SHARE = 0.05  # of a wording's neighbours that must have another wording to join the two


class Relations:
    """The relation of each prompt's wording.

    A record's relation is the one that the file gives. Otherwise, wordings that ask for the same
    thing are joined: a locality prompt of CounterFact has its record's relation, and mostly another
    wording. Without such prompts, as in ZsRE, a rephrase in the wording of other records' prompts
    joins them. A relation is named after its most frequent wording.

    Attributes:
        wordings: of all texts of the records.
        by_wording: wording of a prompt → relation.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        """Joins the wordings of the records' prompts."""
        texts = [(r.subject, text) for r in records for text in (r.prompt, *r.rephrases)]
        self.wordings = Wordings(Frames.frame(text, subject) for subject, text in texts)
        asked = [self.wordings.of_text(record.prompt, record.subject) for record in records]
        times = Counter(filter(None, asked))
        joined = _Groups(times)
        named: dict[str, str] = {}
        for record, wording in zip(records, asked, strict=True):
            if record.relation and wording:
                joined.join(wording, named.setdefault(record.relation, wording))
        unnamed = [
            (record, wording)
            for record, wording in zip(records, asked, strict=True)
            if wording and not record.relation
        ]
        for one, another in self._evidence(unnamed, times):
            joined.join(one, another)
        self.by_wording: Mapping[str, str] = joined.names()

    def of(self, record: Record) -> str:
        """The relation of a record; empty if its prompt's wording is unknown."""
        return self.by_wording.get(self.wordings.of_text(record.prompt, record.subject), "")

    def _evidence(
        self, records: Sequence[tuple[Record, str]], times: Mapping[str, int]
    ) -> list[tuple[str, str]]:
        """Pairs of wordings that ask for the same thing."""
        near: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for record, wording in records:
            found = [self.wordings.matching(text, times)[0] for text, _ in record.locality]
            near[wording].update(filter(None, found))
        for record, wording in records:
            if not near[wording]:
                said = (self.wordings.of_text(text, record.subject) for text in record.rephrases)
                near[wording].update(text for text in said if text in times)
        return [
            (wording, other)
            for wording, others in near.items()
            for other, number in others.items()
            if number >= _FEWEST_SHARE * others.total()
        ]


class _Groups:
    """Disjoint sets of wordings."""

    def __init__(self, times: Mapping[str, int]) -> None:
        self._times, self._parents = times, {wording: wording for wording in times}

    def join(self, one: str, another: str) -> None:
        self._parents[self._root(one)] = self._root(another)

    def _root(self, wording: str) -> str:
        while self._parents[wording] != wording:
            wording = self._parents[wording]
        return wording

    def names(self) -> dict[str, str]:
        """Each wording's set, named after its most frequent member."""
        members: defaultdict[str, list[str]] = defaultdict(list)
        for wording in self._parents:
            members[self._root(wording)].append(wording)
        return {
            wording: min(group, key=lambda item: (-self._times[item], item)).replace(SLOT, "…")
            for group in members.values()
            for wording in group
        }
