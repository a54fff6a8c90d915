"""Texts before they are normalised."""

from __future__ import annotations

import unicodedata

MAX_MARKS = 30
"""Most combining marks in a row, as in Unicode's Stream-Safe Text Format (UAX #15).

No script needs more. Normalising sorts each run of marks, in time that is quadratic in its length.
"""
_IS_MARK = bytes([0, *[1] * 255])  # by canonical combining class, of which 0 is no mark
_TOO_MANY = bytes([1] * (MAX_MARKS + 1))


def stacked_marks(text: str) -> int:
    """Where the first run of more than `MAX_MARKS` combining marks begins; −1 if there is none."""
    if text.isascii():
        return -1
    return bytes(map(unicodedata.combining, text)).translate(_IS_MARK).find(_TOO_MANY)
