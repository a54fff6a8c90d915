"""Suggestions for the author of an edit that failed its check."""

from __future__ import annotations

from collections.abc import Collection

from errata.errors import CheckFailedError
from errata.log.entries import Rejection
from errata.writer.record import EditRecord


def advised(rejection: Rejection, record: EditRecord, lanes: Collection[str]) -> Rejection:
    """The rejection, its message extended by what the author has not tried yet.

    Args:
        rejection: of the edit; returned as it is unless the edit failed its check.
        record: of the edit.
        lanes: names of all lanes.
    """
    error = rejection.error
    if not isinstance(error, CheckFailedError):
        return rejection
    ways = ["reword the prompt"]
    if record.edit.said != record.edit.said.rstrip():
        ways.insert(0, "remove the white space at the prompt's end")
    if record.subject_found:
        ways.append(f"name the subject, which was taken to be {record.edit.subject!r}")
    if others := sorted(set(lanes) - {record.lane}):
        ways.append(f"use another lane ({', '.join(others)})")
    advice = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
    message = f"{error.message} {advice[0].upper()}{advice[1:]}."
    extended = CheckFailedError(message, field=error.field, **error.metadata)
    return Rejection(rejection.edit, extended, rejection.figures)
