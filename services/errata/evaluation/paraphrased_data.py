"""A data set with paraphrases by an LLM, in the layout of its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError
from errata.evaluation.data import load_records
from errata.evaluation.data.fields import read_text
from errata.evaluation.data.record import Record
from errata.evaluation.data.rewording import check_reworded, reworded
from errata.evaluation.paraphrases import Paraphraser, Paraphrases, Paraphrasing
from errata.evaluation.report import circumstances, code_version, file_digest, write

_DATA, _SUMMARY, _DONE = "data.json", "paraphrases.json", "done.jsonl"
_AT_ONCE = 8  # records of a batch; a resumed run has the same batches
_AUDITED = 32  # records whose own rephrases are judged as paraphrases would be


@dataclass(frozen=True, slots=True)
class ParaphrasedData:
    """What to write.

    Attributes:
        data: file of records.
        dataset: its format.
        records: range of them; notes are made of all records of the file.
        out: folder for `data.json` and `paraphrases.json`; an interrupted run resumes.
        only: whether paraphrases replace the file's own rephrases, and records without any are
            left out; otherwise they are added.
        settings: of the paraphrases.
    """

    data: Path
    dataset: str
    records: tuple[int, int]
    out: Path
    only: bool
    settings: Paraphrasing


def write_paraphrases(
    plan: ParaphrasedData,
    load: Callable[[], CausalLM],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes the records with their paraphrases, and a summary.

    Args:
        plan: what to write.
        load: loads the LLM that paraphrases, after the file was read.
        on_progress: called with the number of records done, and of all.

    Returns:
        The contents of `paraphrases.json`: settings, digests, `num_records`, `num_asked`,
        `num_kept`, `num_with_any`, and `audit` (`Paraphraser.audit`).

    Raises:
        InvalidRequestError: a file is unusable, the folder holds another run, or no paraphrase
            was kept.
        ModelError: the LLM cannot be used.
    """
    check_reworded(plan.dataset)
    whole = load_records(plan.dataset, plan.data)
    records = whole[slice(*plan.records)]
    if not records:
        raise InvalidRequestError(
            f"{plan.data} has {len(whole):,} records; the range is behind them.", field="records"
        )
    paraphraser = Paraphraser(load(), whole, plan.settings)
    identity = _identity(plan, paraphraser.digest, len(records))
    found = _paraphrases(plan.out / _DONE, identity, paraphraser, records, on_progress)
    if not any(item.kept for item in found):
        raise InvalidRequestError(
            "the LLM made no question that speaks for the right answer; sample more, ask for a "
            "smaller margin, or take a larger LLM.",
            field="model",
        )
    _write_records(plan, records, found)
    summary = {
        **identity,
        "only": plan.only,
        "num_records": len(records),
        "num_asked": sum(item.num_asked for item in found),
        "num_kept": sum(len(item.kept) for item in found),
        "num_with_any": sum(bool(item.kept) for item in found),
        "audit": paraphraser.audit(records[:_AUDITED]),
        "digest": file_digest(plan.out / _DATA),
        **circumstances(),
    }
    write(summary, plan.out, _SUMMARY)
    return summary


def _paraphrases(
    journal: Path,
    identity: Mapping[str, Any],
    paraphraser: Paraphraser,
    records: Sequence[Record],
    on_progress: Callable[[int, int], None] | None,
) -> list[Paraphrases]:
    """All paraphrases; the journal holds those that an earlier run has made."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    found = _read(journal, identity, len(records))
    with journal.open("a", encoding="utf-8") as file:
        for start in range(len(found), len(records), _AT_ONCE):
            made = paraphraser.paraphrase(records[start : start + _AT_ONCE])
            file.write("".join(f"{json.dumps(asdict(item))}\n" for item in made))
            file.flush()
            found += made
            if on_progress is not None:
                on_progress(len(found), len(records))
    return found


def _read(journal: Path, identity: Mapping[str, Any], num_records: int) -> list[Paraphrases]:
    """The batches that a journal holds whole; what was cut off behind them is removed.

    Raises:
        InvalidRequestError: it belongs to another run.
    """
    head = f"{json.dumps(identity)}\n"
    lines = read_text(journal).splitlines(keepends=True) if journal.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if whole and whole[0] != head:
        raise InvalidRequestError(
            f"{journal.parent} holds paraphrases of other data, of another LLM or version, or with "
            "other settings; give another folder.",
            field="out",
        )
    done = whole[1:]
    if len(done) < num_records:
        done = done[: len(done) // _AT_ONCE * _AT_ONCE]
    if not whole or len(done) + 1 < len(lines):
        kept = journal.with_suffix(".new")
        kept.write_text("".join([head, *done]), encoding="utf-8")
        kept.replace(journal)
    rows = [json.loads(line) for line in done]
    return [Paraphrases(tuple(row["kept"]), row["num_asked"]) for row in rows]


def _identity(plan: ParaphrasedData, model_digest: str, num_records: int) -> dict[str, Any]:
    """What paraphrases depend on."""
    return {
        "dataset": plan.dataset,
        "data": file_digest(plan.data),
        "records": [plan.records[0], plan.records[0] + num_records],
        "model": model_digest,
        "commit": code_version(),
        **asdict(plan.settings),
    }


def _write_records(
    plan: ParaphrasedData, records: Sequence[Record], found: Sequence[Paraphrases]
) -> None:
    raws = json.loads(read_text(plan.data))[slice(*plan.records)]
    made = []
    for raw, record, item in zip(raws, records, found, strict=True):
        if item.kept or not plan.only:
            rephrases = item.kept if plan.only else (*record.rephrases, *item.kept)
            made.append(reworded(plan.dataset, raw, rephrases, record.locality))
    text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    (plan.out / _DATA).write_text(text, encoding="utf-8")
