"""Raw records with other probes, in the layout of their data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from errata.errors import InvalidRequestError

_Raw = Mapping[str, Any]
_Locality = Sequence[tuple[str, str]]


def check_reworded(dataset: str) -> None:
    """Checks that records of a data set can get other rephrases.

    Raises:
        InvalidRequestError: they have none.
    """
    if dataset not in _REWORDED:
        raise InvalidRequestError(
            f"records of {dataset} have no rephrases; choose one of "
            f"{', '.join(sorted(_REWORDED))}.",
            field="dataset",
        )


def reworded(
    dataset: str, raw: _Raw, rephrases: Sequence[str], locality: _Locality
) -> dict[str, Any]:
    """A raw record with other rephrases and locality prompts.

    A layout with one rephrase gets the others as `paraphrases`. One locality prompt is kept where
    the layout has one.

    Args:
        dataset: one that `check_reworded` accepts.
        raw: as the file has it.
        rephrases: at least one.
        locality: prompts and their answers, at least one.
    """
    without = {name: value for name, value in raw.items() if name != "paraphrases"}
    return _REWORDED[dataset](without, rephrases, locality)


def _counterfact(raw: _Raw, rephrases: Sequence[str], locality: _Locality) -> dict[str, Any]:
    if "requested_rewrite" in raw:
        near = [prompt for prompt, _ in locality]
        return {**raw, "paraphrase_prompts": list(rephrases), "neighborhood_prompts": near}
    (prompt, answer), *_ = locality
    probes = {"locality_prompt": prompt, "locality_ground_truth": answer}
    return {**raw, "rephrase_prompt": rephrases[0], **_others(rephrases), **probes}


def _zsre(raw: _Raw, rephrases: Sequence[str], locality: _Locality) -> dict[str, Any]:
    (prompt, answer), *_ = locality
    probes = {"loc": prompt, "loc_ans": answer}
    return {**raw, "rephrase": rephrases[0], **_others(rephrases), **probes}


def _others(rephrases: Sequence[str]) -> dict[str, list[str]]:
    return {"paraphrases": list(rephrases[1:])} if len(rephrases) > 1 else {}


_REWORDED: Mapping[str, Callable[[_Raw, Sequence[str], _Locality], dict[str, Any]]] = {
    "counterfact": _counterfact,
    "zsre": _zsre,
}
