"""Writes the training records that a split allows, in the layout of their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.data import load_records
from errata.evaluation.data.fields import read_text
from errata.evaluation.data.relations import Relations
from errata.evaluation.data.rewording import check_reworded, reworded
from errata.evaluation.data.split import Split, Withholding
from errata.evaluation.report import file_digest, write


def write_split(
    data: Path, records: Path | None, out: Path, *, dataset: str, share: float, seed: int
) -> dict[str, Any]:
    """Writes `train.json` and `split.json`.

    Args:
        data: training records.
        records: editing records, so that their relations have the same names; None without.
        out: folder; created if it is missing.
        dataset: format of both files.
        share: of relations, and of wordings of each other relation, to withhold.
        seed: chooses them.

    Returns:
        The contents of `split.json`.

    Raises:
        InvalidRequestError: a file is unusable, the data set has no rephrases, or nothing is left.
    """
    check_reworded(dataset)
    training = load_records(dataset, data)
    everything = [*training, *(load_records(dataset, records) if records else ())]
    relations = Relations(everything)
    split = Split.draw(everything, relations, share, seed)
    withholding = Withholding(split, training, relations, seed)
    kept = []
    for raw, record in zip(json.loads(read_text(data)), training, strict=True):
        probes = withholding.allowed(record)
        if probes is not None:
            kept.append(_for_training(reworded(dataset, raw, *probes)))
    if not kept:
        raise InvalidRequestError(
            f"a share of {share} leaves no record of {data}; withhold less.", field="withhold"
        )
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(kept, ensure_ascii=False, indent=1) + "\n"
    (out / "train.json").write_text(text, encoding="utf-8")
    found = {
        "dataset": dataset,
        "share": share,
        "seed": seed,
        "num_records": len(training),
        "num_kept": len(kept),
        "data": file_digest(data),
        "records": None if records is None else file_digest(records),
        "train": file_digest(out / "train.json"),
        **split.to_json(),
    }
    write(found, out, "split.json")
    return found


def _for_training(raw: dict[str, Any]) -> dict[str, Any]:
    """Without beginnings of texts about the subject, which are worded like rephrases."""
    raw.pop("generation_prompts", None)
    return raw
