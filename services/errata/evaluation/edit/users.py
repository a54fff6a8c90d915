"""What users need beyond the papers: facts that change back, long answers, unlearning, and more.

Each part starts from the unedited model. A question whose answer the unedited model does not know
where it is asked again (in a long answer, in other words, through a second fact) is not counted:
nothing could be held or extracted there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from errata.editing.retriever.examples import frames_of
from errata.editing.retriever.frames import Frames
from errata.errors import InvalidEditError
from errata.evaluation.data.examples import as_examples
from errata.evaluation.data.record import Record
from errata.evaluation.data.relations import Relations
from errata.evaluation.metrics.tokens import exact_match
from errata.evaluation.systems import Pair, Scored, System

REFUSAL = "something that I may not say"
FILLER = (
    "There is a lot to say about it, and most of it is well known. Some of it was written down "
    "long ago, some of it was told from one person to another, and much of it has been forgotten "
    "since then. People still like to talk about such things in the evening, when the work of the "
    "day is done and nobody is in a hurry. So let me say it once more, as clearly as I can."
)
"""More than 50 tokens about nothing, between the beginning of an answer and what it says again."""
_MOST_OTHER_WORDINGS = 4
_MOST_SUBJECTS = 50
Columns = dict[str, list[float]]
"""Figure → one value for each question that counts."""


@dataclass(frozen=True, slots=True)
class _Bench:
    system: System
    records: Sequence[Record]
    whole: Sequence[Record]
    batch: int

    def edit(self, records: Sequence[Record]) -> None:
        for start in range(0, len(records), self.batch):
            self.system.edit(records[start : start + self.batch])

    def says(self, pairs: Sequence[Pair]) -> list[float]:
        """Whether each continuation is the most likely one, token by token."""
        return [exact_match(scored) for scored in self.system.score(pairs)]


def user_figures(
    system: System, records: Sequence[Record], whole: Sequence[Record], batch: int
) -> Columns:
    """All figures of the suite `users`; the system has no edits before and afterwards.

    Args:
        system: any.
        records: to edit, each with an old answer; others are left out.
        whole: the data set, from which second facts are taken.
        batch: edits that are submitted together.

    Returns:
        `users.changed`: the new answer is exact after an edit; `users.changed_back`: the old one is
        after a second edit, of the same prompt, to it. `users.held_at_50`: the new answer is exact
        where an answer of more than 50 tokens says the fact again, of those where the unedited
        model says the old one. `users.refused`: the refusal is exact at the prompt after an edit to
        it; `users.unlearned`: the old answer is no longer exact there; `users.extractable`: it
        still is at other wordings, of those where the unedited model says it. `users.both_facts`:
        both are exact after two edits of one subject in different batches. `users.subject_kept`:
        what the unedited model knows about a subject in another relation is still exact after an
        edit of the subject; both are records of the data set. `users.ripple`: what
        follows from the new answer by a second fact is exact, of the questions that the unedited
        model answers. Figures without a question that counts are missing.
    """
    known = [record for record in records if record.target_true is not None]
    bench = _Bench(system, known, whole, batch)
    parts: tuple[Callable[[_Bench], Columns], ...] = (
        _back,
        _long,
        _unlearned,
        _both,
        _subjects,
        _ripples,
    )
    found: Columns = {}
    for part in parts:
        try:
            found |= part(bench)
        finally:
            system.reset()
    return {name: values for name, values in found.items() if values}


def _back(bench: _Bench) -> Columns:
    """A → B → A."""
    bench.edit(bench.records)
    changed = bench.says([(record.prompt, record.target_new) for record in bench.records])
    bench.edit([_to(record, record.target_true) for record in bench.records])
    back = bench.says([(record.prompt, _old(record)) for record in bench.records])
    return {"users.changed": changed, "users.changed_back": back}


def _long(bench: _Bench) -> Columns:
    """A fact that is said again after more than 50 tokens of the answer, if the model has room."""

    def ends(target_of: Callable[[Record], str]) -> list[float | None]:
        short = bench.system.score([(r.prompt, target_of(r)) for r in bench.records])
        long = bench.system.score(
            [(r.prompt, f"… {FILLER} {r.prompt} {target_of(r)}") for r in bench.records]
        )
        return [_end(one, whole) for one, whole in zip(short, long, strict=True)]

    try:
        before = ends(_old)
    except InvalidEditError:  # longer than the model's context
        return {}
    bench.edit(bench.records)
    now = ends(lambda record: record.target_new)
    counted = [new for old, new in zip(before, now, strict=True) if old == 1.0 and new is not None]
    return {"users.held_at_50": counted}


def _end(short: Scored, long: Scored) -> float | None:
    """Whether the last words of a long continuation are exact; None if other tokens end it."""
    number = len(short.token_ids)
    if long.token_ids[-number:] != short.token_ids:
        return None
    return float(long.argmax_ids[-number:] == short.token_ids)


def _unlearned(bench: _Bench) -> Columns:
    """A refusal as the new answer; is the old one extractable in other words?"""
    frames = frames_of(as_examples(bench.whole))
    others: list[Pair] = [
        (text, _old(record)) for record in bench.records for text in _wordings(record, frames)
    ]
    own: list[Pair] = [(record.prompt, _old(record)) for record in bench.records]
    knew, knew_others = bench.says(own), bench.says(others)
    bench.edit([_to(record, REFUSAL) for record in bench.records])
    refused = bench.says([(record.prompt, REFUSAL) for record in bench.records])
    says, says_others = bench.says(own), bench.says(others)
    return {
        "users.refused": refused,
        "users.unlearned": [1.0 - now for was, now in zip(knew, says, strict=True) if was],
        "users.extractable": [
            now for was, now in zip(knew_others, says_others, strict=True) if was
        ],
    }


def _wordings(record: Record, frames: Frames) -> list[str]:
    """The record's rephrases, and the most frequent other wordings of its prompt."""
    known = frames.by_prompt.get(Frames.frame(record.prompt, record.subject), {})
    frequent = sorted(known, key=lambda frame: (-known[frame], frame))[:_MOST_OTHER_WORDINGS]
    filled = [Frames.filled(frame, record.subject) for frame in frequent]
    return list(dict.fromkeys((*record.rephrases, *filled)))


def _both(bench: _Bench) -> Columns:
    """Two facts of one subject, in different batches: the second asks what another record asks."""
    records = bench.records
    pairs = [
        (record, second)
        for number, record in enumerate(records)
        if (second := _second(record, [*records[number + 1 :], *records[:number]])) is not None
    ]
    bench.edit([first for first, _ in pairs])
    bench.edit([second for _, second in pairs])
    says = [
        bench.says([(pair[which].prompt, pair[which].target_new) for pair in pairs])
        for which in (0, 1)
    ]
    return {"users.both_facts": [min(both) for both in zip(*says, strict=True)]}


def _second(record: Record, others: Sequence[Record]) -> Record | None:
    own = Frames.frame(record.prompt, record.subject)
    for other in others:
        frame = Frames.frame(other.prompt, other.subject)
        if frame and frame != own and other.target_true != record.target_true:
            prompt = Frames.filled(frame, record.subject)
            made = replace(record, prompt=prompt, target_new=other.target_new, brought=())
            return replace(made, case_id=f"{record.case_id}+{other.case_id}")
    return None


def _subjects(bench: _Bench) -> Columns:
    """What else the model knows about a subject; each batch starts from the unedited model."""
    pairs = list(_facts_of_one_subject(bench.whole))[:_MOST_SUBJECTS]
    kept: list[float] = []
    for start in range(0, len(pairs), bench.batch):
        edits, others = zip(*pairs[start : start + bench.batch], strict=True)
        asked = [(other.prompt, _old(other)) for other in others]
        bench.system.reset()
        knew = bench.says(asked)
        bench.edit(edits)
        kept += [now for was, now in zip(knew, bench.says(asked), strict=True) if was]
    return {"users.subject_kept": kept}


def _facts_of_one_subject(records: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """One record of a subject to edit, and one of another relation to ask; each subject once."""
    relations = Relations(records)
    of_subject: defaultdict[str, list[tuple[str, Record]]] = defaultdict(list)
    for record in records:
        if record.target_true is not None and (relation := relations.of(record)):
            of_subject[record.subject].append((relation, record))
    for (relation, record), *others in of_subject.values():
        for another, other in others:
            if another != relation and other.target_true != record.target_true:
                yield record, other
                break


def _ripples(bench: _Bench) -> Columns:
    """Two-hop questions: a second fact about the old answer, and about the new one."""
    facts = _facts(bench.whole)
    asked = [
        (record, question, old, new)
        for record in bench.records
        for question, old, new in _two_hops(record, facts)
    ]
    if not asked:
        return {"users.ripple": []}
    knows = bench.says([(question, old) for _, question, old, _ in asked])
    bench.edit(bench.records)
    says = bench.says([(question, new) for _, question, _, new in asked])
    return {"users.ripple": [now for was, now in zip(knows, says, strict=True) if was]}


def _facts(records: Sequence[Record]) -> Mapping[str, Mapping[str, str]]:
    """Prompt without its subject → subject → true answer."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        if record.target_true is not None and (f := Frames.frame(record.prompt, record.subject)):
            found[f][record.subject] = record.target_true
    return found


def _two_hops(
    record: Record, facts: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str, str]]:
    """Questions about what completes the record's prompt, with answers before and after."""
    old, new = _old(record), record.target_new
    for frame in sorted(facts):
        known = facts[frame]
        if old in known and new in known and known[old] != known[new]:
            middle = f'the answer to "{record.prompt} …"'
            yield Frames.filled(frame, middle), known[old], known[new]


def _old(record: Record) -> str:
    assert record.target_true is not None, "records without an old answer are left out"
    return record.target_true


def _to(record: Record, target: str | None) -> Record:
    """An edit of the same prompt to another answer."""
    assert target is not None, "records without an old answer are left out"
    return replace(record, target_new=target, brought=())
