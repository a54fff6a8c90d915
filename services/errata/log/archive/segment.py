"""A segment: a run of entries in one file, chained to what comes before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.errors import LogBehindWitnessError
from errata.log.archive.container import damaged, pack, unpack
from errata.log.chain import ChainedEntry, Position, verify_run
from errata.log.entries import ArtifactRef
from errata.log.entry_bytes import pack_entries, unpack_entries

MAX_ENTRIES = 10_000
MAX_BYTES = 4 * 1024 * 1024
"""A segment ends with the entry whose payload reaches this limit, in bytes."""

_KIND = "segment"


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """One segment as the index names it.

    Attributes:
        base: the position before its first entry.
        end: the position after its last one.
        ref: of its file.
    """

    base: Position
    end: Position
    ref: ArtifactRef

    @property
    def name(self) -> str:
        """For messages."""
        return (
            f"{_KIND} of entries {self.base.seq + 1} to {self.end.seq} (artifact {self.ref.digest})"
        )


def pack_segment(log_id: str, base: Position, entries: Sequence[ChainedEntry]) -> bytes:
    """The file with these entries.

    Args:
        log_id: of their log.
        base: the position before the first one.
        entries: at least one; verified.
    """
    end = entries[-1]
    fields = {
        "from_seq": base.seq + 1,
        "to_seq": end.seq,
        "base_digest": base.chain_digest.hex(),
        "end_digest": end.chain_digest.hex(),
    }
    return pack(_KIND, log_id, fields, pack_entries(entries))


def unpack_segment(data: bytes, log_id: str, segment: SegmentRef) -> tuple[ChainedEntry, ...]:
    """The entries of a file, verified from `segment.base` to `segment.end`.

    Raises:
        PreconditionError: a newer version of Errata wrote it.
        ArtifactCorruptError: it is not the segment that the index names.
    """
    _, body = unpack(data, _KIND, log_id)
    try:
        entries = unpack_entries(body, segment.base.seq + 1)
    except ValueError as error:
        raise damaged(segment.name, str(error)) from error
    try:
        found = verify_run(segment.base, entries)
    except LogBehindWitnessError as error:
        raise damaged(segment.name, error.message.partition(".")[0]) from error
    if found != segment.end:
        raise damaged(segment.name, f"it ends at entry {found.seq} with another chain digest")
    return entries
