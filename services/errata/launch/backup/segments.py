"""Segments: runs of entries in compressed files that their SHA-256 names.

A file is a magic line, then, compressed by zlib, the entries as `log/entry_bytes.py` packs them.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

from errata.errors import DataLossError, LogBehindWitnessError
from errata.launch.backup.manifest import Segment
from errata.log.chain import ChainedEntry, Position, verify_run
from errata.log.entry_bytes import OVERHEAD_BYTES, inflate, pack_entries, unpack_entries

MAX_ENTRIES = 10_000
MAX_BYTES = 8 * 1024 * 1024
_MAGIC = b"errata segment 1\n"


class SegmentWriter:
    """Collects entries until a segment is full."""

    def __init__(self) -> None:
        """Holds nothing."""
        self._entries: list[ChainedEntry] = []
        self._num_bytes = 0

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Whether the segment must be closed before another entry."""
        return len(self._entries) >= MAX_ENTRIES or self._num_bytes >= MAX_BYTES

    def add(self, entry: ChainedEntry) -> None:
        """Adds the next entry."""
        self._entries.append(entry)
        self._num_bytes += OVERHEAD_BYTES + len(entry.payload)

    def close(self) -> tuple[Segment, bytes]:
        """The segment of at least one entry, and its file; the writer is empty again."""
        segment = encode_segment(self._entries)
        self._entries, self._num_bytes = [], 0
        return segment


def is_full(segment: Segment) -> bool:
    """Whether a segment that a `SegmentWriter` closed was full."""
    num_entries = segment.last_seq - segment.first_seq + 1
    return num_entries >= MAX_ENTRIES or segment.raw_bytes >= MAX_BYTES


def encode_segment(entries: Sequence[ChainedEntry]) -> tuple[Segment, bytes]:
    """A segment of contiguous entries, at least one, and its file."""
    raw = pack_entries(entries)
    data = _MAGIC + zlib.compress(raw, 6)
    first, last = entries[0], entries[-1]
    digest = hashlib.sha256(data).hexdigest()
    chain_digest = last.chain_digest.hex()
    return Segment(digest, len(data), len(raw), first.seq, last.seq, chain_digest), data


def decode_segment(segment: Segment, data: bytes, base: Position) -> tuple[ChainedEntry, ...]:
    """The entries of a segment, verified.

    Args:
        segment: as the manifest names it.
        data: the file.
        base: the verified position before its first entry.

    Raises:
        DataLossError: the file is cut short or was changed, or its entries do not lead from `base`
            to its end.
    """
    if len(data) != segment.size_bytes or hashlib.sha256(data).hexdigest() != segment.digest:
        raise damaged(segment, "it does not match its digest")
    if not data.startswith(_MAGIC):
        raise damaged(segment, "it is not a segment of this format")
    try:
        raw = inflate(data[len(_MAGIC) :], segment.raw_bytes)
        entries = unpack_entries(raw, segment.first_seq)
        end = verify_run(base, entries)
    except (ValueError, LogBehindWitnessError) as error:
        raise damaged(segment, str(error)) from error
    if end != segment.end:
        raise damaged(segment, f"it ends at entry {end.seq} with another chain digest")
    return entries


def damaged(segment: Segment, why: str) -> DataLossError:
    """The error for a segment that cannot be used."""
    before = segment.first_seq - 1
    instead = f", or restore --at {before}, before it" if before else ""
    return DataLossError(
        f"segment {segment.digest} of the backup (entries {segment.first_seq} to "
        f"{segment.last_seq}) is missing or damaged: {why}. Nothing was changed. Run `errata "
        f"backup --check` into it again if its log still runs, take another copy{instead}.",
        digest=segment.digest,
        first_seq=segment.first_seq,
    )
