"""RippleEdits (Cohen et al., 2023): edits and the questions whose answers they change or keep."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from errata.evaluation.data.fields import Fields, read_array
from errata.evaluation.data.record import Record, RippleQuestion, RippleTest

KINDS = ("popular", "random", "recent")
_ALIASING = "Subject_Aliasing"
_RELATION = "Relation_Specificity"
_FORGETFULNESS = "Forgetfulness"
GROUPS = (
    "Logical_Generalization",
    "Compositionality_I",
    "Compositionality_II",
    _ALIASING,
    _RELATION,
    _FORGETFULNESS,
)
_SMALL = frozenset("The the of is are name names which in with by for to and a an".split())
_VERB = re.compile(r"\b(?:is|are)\b")


def load_ripple_edits(path: Path) -> list[Record]:
    """Reads a JSON array in the public layout, the same for popular, random and recent edits.

    An edit is published as one sentence with Wikidata ids. The target is the end of the sentence:
    a value that the aliasing questions accept, or else everything after its last verb. The subject
    is the part that its phrase shares with questions about other relations of the same entity.
    Rephrases are the aliasing questions; locality is relation specificity and forgetfulness; the
    tests of each of the six groups are also kept, with their conditions. Recent facts have no old
    answer, so old answers are never used.

    Raises:
        InvalidRequestError: the message names file, record and field.
    """
    return [_record(fields, number) for number, fields in enumerate(read_array(path))]


def _record(fields: Fields, number: int) -> Record:
    edit = fields.inner("edit")
    if "example_type" in fields:
        fields.choice("example_type", KINDS)
    sentence, subject_id = edit.text("prompt"), edit.text("subject_id")
    groups = {group: list(_queries(fields, group)) for group in GROUPS}
    asked = {
        group: tuple(found for query in queries if (found := _question(query)) is not None)
        for group, queries in groups.items()
    }
    ripples = {group: tuple(_tests(fields, group)) for group in GROUPS}
    prompt, target = _split(edit, sentence, asked[_ALIASING])
    relation = edit.text("relation")
    phrases = [
        query.text("prompt")
        for query in groups[_RELATION]
        if query.text("subject_id") == subject_id and query.text("relation") != relation
    ]
    return Record(
        case_id=str(number),
        prompt=prompt,
        subject=_subject(edit, prompt, phrases),
        target_new=target,
        target_true=None,
        rephrases=tuple(question.prompt for question in asked[_ALIASING]),
        locality=tuple(
            (question.prompt, question.answers[0])
            for group in (_RELATION, _FORGETFULNESS)
            for question in asked[group]
        ),
        relation=relation,
        ripples={group: tests for group, tests in ripples.items() if tests},
    )


def _queries(fields: Fields, group: str) -> Iterator[Fields]:
    for test in fields.inners(group):
        yield from test.inners("test_queries")


def _tests(fields: Fields, group: str) -> Iterator[RippleTest]:
    """The tests that can be passed: with a question, and with an answer to every condition."""
    for test in fields.inners(group):
        questions = [_question(query) for query in test.inners("test_queries")]
        needed = test.inners("condition_queries") if "condition_queries" in test else []
        conditions = [_question(query) for query in needed]
        known = tuple(question for question in questions if question is not None)
        if known and None not in conditions:
            yield RippleTest(
                known,
                "test_condition" in test and test.choice("test_condition", ("OR", "AND")) == "AND",
                tuple(question for question in conditions if question is not None),
            )


def _question(query: Fields) -> RippleQuestion | None:
    """None for a question without an answer in the data set."""
    answers: list[str] = []
    for answer in query.inners("answers"):
        if "value" in answer:
            answers.append(answer.text("value"))
            answers += answer.texts("aliases") if answer.has_items("aliases") else ()
    return RippleQuestion(query.text("prompt"), tuple(dict.fromkeys(answers))) if answers else None


def _split(edit: Fields, sentence: str, aliasing: tuple[RippleQuestion, ...]) -> tuple[str, str]:
    """Phrase and target of "The mother of Ada is Anne."."""
    body = sentence.removesuffix(".")
    known = sorted({answer for item in aliasing for answer in item.answers}, key=len, reverse=True)
    for answer in known:
        if body.endswith(f" {answer}"):
            return body.removesuffix(answer).rstrip(), answer
    verbs = list(_VERB.finditer(body))
    if not verbs or not body[verbs[-1].end() :].strip():
        raise edit.error("prompt", "must be a sentence such as 'The mother of Ada is Anne.'")
    end = verbs[-1].end()
    return body[:end], body[end:].strip()


def _subject(edit: Fields, prompt: str, phrases: list[str]) -> str:
    """The words of the edit's phrase that also occur in most phrases about its other relations.

    Among equally frequent runs of words, the longest; a name neither begins nor ends with a small
    word.
    """
    words = prompt.split()
    others = [f" {other} " for other in dict.fromkeys(phrases) if other != prompt]
    runs = [
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
        if words[start] not in _SMALL and words[end - 1] not in _SMALL
    ]
    counts = {run: sum(f" {run} " in other for other in others) for run in runs}
    best = max(counts, key=lambda run: (counts[run], len(run)), default="")
    if others and best and counts[best]:
        return best
    _, of, behind = prompt.rpartition(" of ")
    alone = " ".join(word for word in behind.split() if not _VERB.fullmatch(word))
    if not of or not alone:
        raise edit.error("prompt", f"has no subject that other questions share: {prompt!r}")
    return alone
