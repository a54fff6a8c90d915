"""A data set with paraphrases by an LLM, in the layout of its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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

DATA, SUMMARY, _DONE = "data.json", "paraphrases.json", "done.jsonl"
_AT_ONCE = 8  # records between two lines of the journal


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
    plan: ParaphrasedData, model: CausalLM, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Writes the records with their paraphrases, and a summary.

    Args:
        plan: what to write.
        model: the LLM that paraphrases.
        on_progress: called with the number of records done, and of all.

    Returns:
        The contents of `paraphrases.json`: `num_records`, `num_sampled`, `num_kept`,
        `num_with_any`, settings and digests.

    Raises:
        InvalidRequestError: a file is unusable, the folder holds another run, or no paraphrase
            was kept.
        InvalidEditError: a record is too long for the LLM.
    """
    check_reworded(plan.dataset)
    whole = load_records(plan.dataset, plan.data)
    records = whole[slice(*plan.records)]
    if not records:
        raise InvalidRequestError(
            f"{plan.data} has {len(whole):,} records; the range is behind them.", field="records"
        )
    found = _paraphrases(plan, Paraphraser(model, whole, plan.settings), records, on_progress)
    raws = json.loads(read_text(plan.data))[slice(*plan.records)]
    made = [
        _with(plan, raw, record, item.kept)
        for raw, record, item in zip(raws, records, found, strict=True)
        if item.kept or not plan.only
    ]
    if not any(item.kept for item in found):
        raise InvalidRequestError(
            "the LLM made no paraphrase that its own answers agree with; sample more, ask for a "
            "smaller margin, or take a larger LLM.",
            field="model",
        )
    text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    (plan.out / DATA).write_text(text, encoding="utf-8")
    summary = {
        **_identity(plan, model.digest),
        "num_records": len(records),
        "num_sampled": sum(item.num_sampled for item in found),
        "num_kept": sum(len(item.kept) for item in found),
        "num_with_any": sum(bool(item.kept) for item in found),
        "digest": file_digest(plan.out / DATA),
        "commit": code_version(),
        **circumstances(),
    }
    write(summary, plan.out, SUMMARY)
    return summary


def _paraphrases(
    plan: ParaphrasedData,
    paraphraser: Paraphraser,
    records: Sequence[Record],
    on_progress: Callable[[int, int], None] | None,
) -> list[Paraphrases]:
    """All paraphrases; the journal holds those that an earlier run has made."""
    plan.out.mkdir(parents=True, exist_ok=True)
    journal = plan.out / _DONE
    identity = json.dumps(_identity(plan, paraphraser.digest))
    found = _read(journal, identity)
    with journal.open("a", encoding="utf-8") as file:
        if not found and not file.tell():
            file.write(f"{identity}\n")
        for start in range(len(found), len(records), _AT_ONCE):
            made = paraphraser.paraphrase(records[start : start + _AT_ONCE])
            file.write("".join(f"{json.dumps(asdict(item))}\n" for item in made))
            file.flush()
            found += made
            if on_progress is not None:
                on_progress(len(found), len(records))
    return found


def _read(journal: Path, identity: str) -> list[Paraphrases]:
    """What a journal holds; a line that was cut is left out, and the file is cut there.

    Raises:
        InvalidRequestError: it belongs to another run.
    """
    if not journal.exists():
        return []
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if whole and whole[0].rstrip("\n") != identity:
        raise InvalidRequestError(
            f"{journal.parent} holds paraphrases of other data, of another LLM or with other "
            "settings; give another folder.",
            field="out",
        )
    journal.write_text("".join(whole), encoding="utf-8")
    rows = [json.loads(line) for line in whole[1:]]
    return [Paraphrases(tuple(row["kept"]), row["num_sampled"]) for row in rows]


def _with(
    plan: ParaphrasedData, raw: dict[str, Any], record: Record, kept: Sequence[str]
) -> dict[str, Any]:
    rephrases = kept if plan.only else (*record.rephrases, *kept)
    return reworded(plan.dataset, raw, rephrases, record.locality)


def _identity(plan: ParaphrasedData, model_digest: str) -> dict[str, Any]:
    return {
        "dataset": plan.dataset,
        "data": file_digest(plan.data),
        "records": list(plan.records),
        "model": model_digest,
        **asdict(plan.settings),
    }
