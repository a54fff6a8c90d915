"""Writes the training records that a split allows, in the layout of their file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.data import load_records
from errata.evaluation.data.fields import read_text
from errata.evaluation.data.relations import Relations
from errata.evaluation.data.split import Split, Withholding
from errata.evaluation.report import file_digest, write

_Probes = tuple[Sequence[str], Sequence[tuple[str, str]]]


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
    if dataset not in _REWORD:
        raise InvalidRequestError(
            f"records of {dataset} cannot be split by wording; choose one of "
            f"{', '.join(sorted(_REWORD))}.",
            field="dataset",
        )
    training = load_records(dataset, data)
    everything = [*training, *(load_records(dataset, records) if records else ())]
    relations = Relations(everything)
    split = Split.draw(everything, relations, share, seed)
    withholding = Withholding(split, training, relations, seed)
    kept = []
    for raw, record in zip(json.loads(read_text(data)), training, strict=True):
        probes = withholding.allowed(record)
        if probes is not None:
            kept.append(_REWORD[dataset](raw, probes))
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


def _reworded_counterfact(raw: Mapping[str, Any], probes: _Probes) -> dict[str, Any]:
    rephrases, locality = probes
    if "requested_rewrite" in raw:
        made = {**raw, "paraphrase_prompts": list(rephrases)}
        # Beginnings of texts about the subject are worded like rephrases, and are not for training.
        made.pop("generation_prompts", None)
        return made | {"neighborhood_prompts": [prompt for prompt, _ in locality]}
    (prompt, answer), *_ = locality
    near = {"locality_prompt": prompt, "locality_ground_truth": answer}
    return {**raw, "rephrase_prompt": rephrases[0], **near}


def _reworded_zsre(raw: Mapping[str, Any], probes: _Probes) -> dict[str, Any]:
    (prompt, answer), *_ = probes[1]
    return {**raw, "rephrase": probes[0][0], "loc": prompt, "loc_ans": answer}


_REWORD: Mapping[str, Callable[[Mapping[str, Any], _Probes], dict[str, Any]]] = {
    "counterfact": _reworded_counterfact,
    "zsre": _reworded_zsre,
}
