"""What the author of an edit that failed its check can do, and has not done already."""

from __future__ import annotations

from collections.abc import Collection

from errata.errors import CheckFailedError
from errata.log.entries import Rejection
from errata.writer.ledger import EditRecord


def advised(rejection: Rejection, record: EditRecord, lanes: Collection[str]) -> Rejection:
    """The rejection with its ways out.

    Args:
        rejection: of the edit.
        record: of the edit.
        lanes: all that there are.
    """
    error = rejection.error
    if not isinstance(error, CheckFailedError):
        return rejection
    ways = ["reword the prompt"]
    if record.edit.prompt != record.edit.prompt.rstrip():
        ways.insert(0, "leave out the white space at the prompt's end")
    if record.subject_found:
        ways.append(f"name the subject, which was taken to be {record.edit.subject!r}")
    if others := sorted(set(lanes) - {record.lane}):
        ways.append(f"use another lane ({', '.join(others)})")
    told = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
    message = f"{error.message} {told[0].upper()}{told[1:]}."
    told_error = CheckFailedError(message, field=error.field, **error.metadata)
    return Rejection(rejection.edit, told_error, rejection.figures)
