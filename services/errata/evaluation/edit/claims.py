"""Which edit claims each prompt: the routing half of an answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from errata.evaluation.data.record import Record
from errata.evaluation.judge import Answers, Measures
from errata.evaluation.metrics.tokens import exact_agreement, exact_match
from errata.evaluation.systems import System
from errata.evaluation.systems.lane import LaneSystem

Claimant = Literal["own", "other", "none"]

_MAX_EXAMPLES = 20  # of each kind of failure
_KINDS = {
    "own": "claimed by its edit, answered otherwise",
    "other": "claimed by another edit",
    "none": "claimed by no edit",
}


@dataclass(frozen=True, slots=True)
class RecordClaims:
    """The claimants of a record's prompts: the edit of its own prompt, another edit, or none.

    Attributes:
        prompt: claimant of the edited prompt.
        rephrases: claimants of its rephrases.
        locality: claimants of prompts that no edit should claim.
    """

    prompt: Claimant
    rephrases: tuple[Claimant, ...]
    locality: tuple[Claimant, ...]


def claims_of(system: System, records: Sequence[Record]) -> list[RecordClaims]:
    """Routes all prompts in one call; empty for systems that do not route."""
    if not isinstance(system, LaneSystem) or not system.routes:
        return []
    texts = [
        text
        for record in records
        for text in (record.prompt, *record.rephrases, *(near for near, _ in record.locality))
    ]
    claims = iter(system.claims(texts))

    def take(record: Record) -> Claimant:
        claim = next(claims)
        if not claim.holds:
            return "none"
        return "own" if system.prompt_of(claim.edit) == record.prompt else "other"

    return [
        RecordClaims(
            prompt=take(record),
            rephrases=tuple(take(record) for _ in record.rephrases),
            locality=tuple(take(record) for _ in record.locality),
        )
        for record in records
    ]


def claim_figures(claims: Sequence[RecordClaims], records: Sequence[Record]) -> Measures:
    """Shares of prompts that are claimed, each a mean per record and then over records.

    Args:
        claims: of the records' prompts.
        records: whose edits are active.

    Returns:
        `claims.prompts` and `claims.rephrases`: claimed by the edit of the record's own prompt;
        `claims.others`: rephrases claimed by another edit; `claims.unrelated`: locality prompts
        claimed by any edit; `claims.changed`: locality prompts about what another edit changed,
        claimed or not. Empty without claims.
    """
    if not claims:
        return {}
    rephrased = [item.rephrases for item in claims if item.rephrases]
    near = [item.locality for item in claims if item.locality]
    return {
        "claims.prompts": fmean(item.prompt == "own" for item in claims),
        "claims.rephrases": _share(rephrased, ("own",)),
        "claims.others": _share(rephrased, ("other",)),
        "claims.unrelated": _share(near, ("own", "other")),
        "claims.changed": _changed(records),
    }


def _changed(records: Sequence[Record]) -> float | None:
    """Share of locality prompts with the subject and the true answer of another record.

    A system that answers them as that edit says is right, and loses locality.
    """
    subjects: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.target_true and record.subject:
            subjects[record.target_true].add(record.subject)
    return _mean(
        [
            fmean(any(name in text for name in subjects[true]) for text, true in record.locality)
            for record in records
            if record.locality
        ]
    )


def failures(
    records: Sequence[Record],
    before: Sequence[Answers],
    now: Sequence[Answers],
    claims: Sequence[RecordClaims],
) -> dict[str, Any]:
    """Failed questions, by the claimant of the prompt.

    Args:
        records: that were edited.
        before: their answers before the first edit.
        now: their current answers.
        claims: their current claims.

    Returns:
        JSON: `counts` and `examples`, by `prompt`, `rephrase` or `locality` and kind.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, list[dict[str, str]]] = {}
    for record, old, new, claimed in zip(records, before, now, claims, strict=True):
        for what, prompt, claimant in _failed(record, old, new, claimed):
            kind = f"{what}: {_KINDS[claimant]}"
            counts[kind] += 1
            if len(examples.setdefault(kind, [])) < _MAX_EXAMPLES:
                examples[kind].append({"asked": prompt, "target": record.target_new})
    return {"counts": dict(sorted(counts.items())), "examples": examples}


def _failed(
    record: Record, before: Answers, now: Answers, claims: RecordClaims
) -> Iterator[tuple[str, str, Claimant]]:
    if not exact_match(now.new):
        yield "prompt", record.prompt, claims.prompt
    for text, answer, claimant in zip(
        record.rephrases, now.rephrases_new, claims.rephrases, strict=True
    ):
        if not exact_match(answer):
            yield "rephrase", text, claimant
    for (text, _), old, new, claimant in zip(
        record.locality, before.locality_true, now.locality_true, claims.locality, strict=True
    ):
        if not exact_agreement(old, new):
            yield "locality", text, claimant


def _share(rows: Sequence[Sequence[Claimant]], which: Sequence[Claimant]) -> float | None:
    return _mean([fmean(claimant in which for claimant in row) for row in rows])


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
