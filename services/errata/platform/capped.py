"""Error texts of a bounded size: they travel in headers, and can repeat what a caller sent."""

from __future__ import annotations

MAX_METADATA_ITEMS = 16
_CUT = "…"


def capped(text: str, most: int) -> str:
    """The text in at most `most` bytes of UTF-8; of a longer one, its start and its end.

    The end of a message says what to do.

    Args:
        text: any text; lone surrogates are replaced.
        most: at least 16 bytes.
    """
    data = text.encode(errors="replace")
    if len(data) <= most:
        return data.decode()
    room = most - len(_CUT.encode())
    end = room // 2
    start = data[: room - end].decode(errors="ignore")
    return start + _CUT + data[-end:].decode(errors="ignore")
