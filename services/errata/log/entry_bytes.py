"""Runs of entries as bytes, for files of the archive and of backups.

For each entry: the length of its payload, 4 bytes, big endian ‖ its chain digest, 32 bytes ‖ the
payload.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from errata.log.chain import DIGEST_BYTES, ChainedEntry

_LENGTH_BYTES = 4
OVERHEAD_BYTES = _LENGTH_BYTES + DIGEST_BYTES
"""Of each entry, beside its payload."""


def pack_entries(entries: Iterable[ChainedEntry]) -> bytes:
    """The bytes of contiguous entries."""
    return b"".join(
        len(entry.payload).to_bytes(_LENGTH_BYTES, "big") + entry.chain_digest + entry.payload
        for entry in entries
    )


def unpack_entries(data: bytes, first_seq: int) -> tuple[ChainedEntry, ...]:
    """The entries in `data`, not verified.

    Args:
        data: what `pack_entries` made.
        first_seq: position of the first one.

    Raises:
        ValueError: the last entry is cut short.
    """
    found: list[ChainedEntry] = []
    start = 0
    while start < len(data):
        first = start + OVERHEAD_BYTES
        end = first + int.from_bytes(data[start : start + _LENGTH_BYTES], "big")
        if end > len(data):
            raise ValueError("its last entry is cut short")
        digest = data[start + _LENGTH_BYTES : first]
        found.append(ChainedEntry(first_seq + len(found), data[first:end], digest))
        start = end
    return tuple(found)


def inflate(packed: bytes, num_bytes: int) -> bytes:
    """Decompresses zlib's format; never to more than is announced.

    Args:
        packed: compressed.
        num_bytes: length of the content.

    Raises:
        ValueError: it cannot be decompressed, or has another length.
    """
    inflater = zlib.decompressobj()
    try:
        # One byte more than announced, so that a longer content is noticed and not expanded.
        content = inflater.decompress(packed, num_bytes + 1)
    except zlib.error as error:
        raise ValueError("it cannot be decompressed") from error
    if len(content) != num_bytes or not inflater.eof or inflater.unused_data:
        raise ValueError("it is cut short, or longer than it says")
    return content
