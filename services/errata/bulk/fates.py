"""What became of each row of an import."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from errata.errors import InvalidRequestError
from errata_client import Edit, ErrataError

COMMITTED, REFUSED, REPEATED = "committed", "refused", "repeated"
FAILED = frozenset({REFUSED, "rejected", "reverted", "withdrawn"})
"""Outcomes after which the model does not answer with the row."""


@dataclass(frozen=True, slots=True)
class Fate:
    """The outcome of one row.

    Attributes:
        row: its number.
        outcome: the edit's state: `proposed` in a lane that requires approval; `requested` if
            nobody waited for more; `refused` if the service
            did not take it; `repeated` if an earlier row says the same.
        edit: its name; empty if refused.
        commit_seq: position from which it has an effect; 0 if it has none.
        reason: machine-readable, of a refusal or rejection.
        message: of a refusal or rejection.
    """

    row: int
    outcome: str
    edit: str = ""
    commit_seq: int = 0
    reason: str = ""
    message: str = ""


def fate_of(row: int, edit: Edit) -> Fate:
    """The fate that an edit's state tells."""
    state = edit.state.name.lower()
    return Fate(row, state, edit.name, edit.commit_seq, edit.reason, edit.error)


def refusal(row: int, error: ErrataError) -> Fate:
    """The fate of a row that the service did not take."""
    return Fate(row, REFUSED, reason=error.reason, message=error.message)


class Report:
    """The fates so far, written to a file line by line as they are known.

    Attributes:
        counts: rows by outcome.
        failed: fates of the first rows that the model does not answer with.
    """

    _MAX_SHOWN = 20

    def __init__(self, file: IO[str] | None) -> None:
        """Has nothing yet."""
        self.counts: Counter[str] = Counter()
        self.failed: list[Fate] = []
        self._file = file

    def add(self, fate: Fate) -> None:
        """Notes a fate."""
        self.counts[fate.outcome] += 1
        if fate.outcome in FAILED and len(self.failed) < self._MAX_SHOWN:
            self.failed.append(fate)
        if self._file is not None:
            self._file.write(json.dumps(asdict(fate)) + "\n")
            self._file.flush()

    @property
    def num_failed(self) -> int:
        """Rows that the model does not answer with."""
        return sum(self.counts[outcome] for outcome in FAILED)


@contextmanager
def report_file(path: Path | None) -> Iterator[Report]:
    """A report that is written to a file, if there is one.

    Raises:
        InvalidRequestError: the file cannot be written.
    """
    if path is None:
        yield Report(None)
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be written ({error.strerror}).", field="report"
        ) from error
    with file:
        yield Report(file)
