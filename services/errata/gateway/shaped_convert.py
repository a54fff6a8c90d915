"""Counts of shaped answers as a message."""

from __future__ import annotations

from collections.abc import Mapping

from errata.gateway.convert import CATALOG
from errata_client._gen.errata.v1 import catalog_pb2

_HOUR_SECONDS = 3_600


def report_path() -> str:
    """The path of the method that takes them."""
    return f"/{CATALOG}/ReportShapedAnswers"


def report(reporter: str, number: int, counts: Mapping[tuple[str, int], int]) -> bytes:
    """The request.

    Args:
        reporter: this gateway.
        number: of the report.
        counts: answers by edit and hour since 1970.
    """
    message = catalog_pb2.ReportShapedAnswersRequest(reporter=reporter, number=number)
    for (edit, hour), answers in counts.items():
        added = message.counts.add(edit=edit, answers=answers)
        added.hour.seconds = hour * _HOUR_SECONDS
    return message.SerializeToString()
