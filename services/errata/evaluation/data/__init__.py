"""Data sets in their public formats; every loader yields the same kind of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from errata.errors import InvalidRequestError
from errata.evaluation.data.counterfact import load_counterfact
from errata.evaluation.data.record import Record
from errata.evaluation.data.ripple_edits import load_ripple_edits
from errata.evaluation.data.selfcheckgpt import load_selfcheckgpt
from errata.evaluation.data.zsre import load_zsre

LOADERS: Mapping[str, Callable[[Path], list[Record]]] = {
    "counterfact": load_counterfact,
    "zsre": load_zsre,
    "selfcheckgpt": load_selfcheckgpt,
    "rippleedits": load_ripple_edits,
}


def load_records(dataset: str, path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        InvalidRequestError: no such data set, or the file is unusable; the message names file,
            record and field.
    """
    if dataset not in LOADERS:
        raise InvalidRequestError(
            f"no data set is called {dataset!r}; choose one of {', '.join(sorted(LOADERS))}.",
            field="dataset",
        )
    return LOADERS[dataset](path)
