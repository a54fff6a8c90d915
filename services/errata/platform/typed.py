"""What people type into commands and forms: shares, spans of time, names of canaries."""

from __future__ import annotations

import re
from decimal import Decimal

from errata.errors import InvalidRequestError

CANARIES = "canaries/"
"""Before the name of a canary."""
_SHARE = re.compile(r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})\s*(%?)", re.ASCII)
_SPAN = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_MAX_SHOWN = 40


def share_of(text: str, field: str) -> float:
    """A share, typed as `10%` or `0.1`; 0 to 1.

    Args:
        text: as it was typed.
        field: that it is of, for the message.

    Raises:
        InvalidRequestError: it is none.
    """
    found = _SHARE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequestError(
            f"{field}: {text[:_MAX_SHOWN]!r} is no share; write it as 10% or 0.1.", field=field
        )
    number, percent = Decimal(found[1]), found[2]
    share = number / 100 if percent else number
    if share > 1:
        meant = f"; did you mean {number:f}%?" if not percent and number <= 100 else ""
        raise InvalidRequestError(
            f"{field}: {text.strip()[:_MAX_SHOWN]} is more than all requests{meant or '.'}",
            field=field,
        )
    return float(share)


def share_text(share: float) -> str:
    """A share as people read it, such as `2.5%`."""
    return f"{share * 100:g}%"


def seconds_of(text: str, field: str) -> int:
    """A span of time, typed as `90s`, `30m`, `1h30m` or `2d`; `0` is none.

    Args:
        text: as it was typed.
        field: that it is of, for the message.

    Raises:
        InvalidRequestError: it is none.
    """
    typed = text.strip()
    if typed == "0":
        return 0
    found = _SPAN.fullmatch(typed)
    if not typed or found is None:
        raise InvalidRequestError(
            f"{field}: {text[:_MAX_SHOWN]!r} is no span of time; write it as 90s, 30m, 1h30m or "
            "2d.",
            field=field,
        )
    return sum(
        int(number or 0) * seconds
        for number, (_, seconds) in zip(found.groups(), _UNITS, strict=True)
    )


def span_text(seconds: int) -> str:
    """A span of time as it can be typed, such as `1h30m`."""
    parts = []
    for unit, size in _UNITS:
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0"


def canary_of(name: str) -> str:
    """A canary's whole name, which may be typed without `canaries/`; empty for none."""
    typed = name.strip()
    return typed if not typed or typed.startswith(CANARIES) else f"{CANARIES}{typed}"
