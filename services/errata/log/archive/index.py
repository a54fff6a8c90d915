"""The archive's index: all segments from entry 1 on, and the fold of their entries.

Redis names only the index, so that what it holds of an archive does not grow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from errata.log.archive.container import damaged, pack, unpack
from errata.log.archive.segment import SegmentRef
from errata.log.chain import ORIGIN, Position
from errata.log.entries import ArtifactRef
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json

_INDEX, _FOLD = "index", "fold"


@dataclass(frozen=True, slots=True)
class ArchiveIndex:
    """The content of an archive.

    Attributes:
        segments: contiguous from entry 1 on; at least one.
        fold: of all their entries.
    """

    segments: tuple[SegmentRef, ...]
    fold: ArtifactRef

    @property
    def position(self) -> Position:
        """The last archived entry."""
        return self.segments[-1].end

    @property
    def size_bytes(self) -> int:
        """Of the segments' files."""
        return sum(segment.ref.size_bytes for segment in self.segments)

    def artifacts(self) -> tuple[ArtifactRef, ...]:
        """The files that the index names."""
        return (*(segment.ref for segment in self.segments), self.fold)


def pack_index(log_id: str, index: ArchiveIndex) -> bytes:
    """The file with an index."""
    rows = [
        [each.end.seq, each.end.chain_digest.hex(), each.ref.digest, each.ref.size_bytes]
        for each in index.segments
    ]
    body = {"segments": rows, "fold": [index.fold.digest, index.fold.size_bytes]}
    return pack(_INDEX, log_id, {"to_seq": index.position.seq}, json.dumps(body).encode())


def unpack_index(data: bytes, log_id: str) -> ArchiveIndex:
    """The index in a file.

    Raises:
        PreconditionError: a newer version of Errata wrote it.
        ArtifactCorruptError: it is not an index of this log.
    """
    _, body = unpack(data, _INDEX, log_id)
    try:
        found = json.loads(body)
        segments, base = [], ORIGIN
        for seq, chain_digest, digest, size in found["segments"]:
            end = Position(int(seq), bytes.fromhex(chain_digest))
            if end.seq <= base.seq:
                raise ValueError("a segment is empty")
            segments.append(SegmentRef(base, end, ArtifactRef(str(digest), int(size))))
            base = end
        fold = ArtifactRef(*found["fold"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(_INDEX, f"its content cannot be read ({error})") from error
    if not segments:
        raise damaged(_INDEX, "it names no segment")
    return ArchiveIndex(tuple(segments), fold)


def pack_fold(log_id: str, position: Position, fold: LogFold) -> bytes:
    """The file with the fold of the entries up to `position`."""
    fields = {"to_seq": position.seq, "end_digest": position.chain_digest.hex()}
    return pack(_FOLD, log_id, fields, json.dumps(fold_to_json(fold)).encode())


def unpack_fold(data: bytes, log_id: str, position: Position) -> LogFold:
    """The fold in a file, which must be of the entries up to `position`.

    Raises:
        PreconditionError: a newer version of Errata wrote it.
        ArtifactCorruptError: it is not that fold.
    """
    header, body = unpack(data, _FOLD, log_id)
    _check_position(header, position)
    try:
        fold = fold_from_json(json.loads(body))
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(_FOLD, "its content cannot be read") from error
    if fold.seq != position.seq:
        raise damaged(_FOLD, f"it ends at entry {fold.seq}, and not at {position.seq}")
    return fold


def _check_position(header: Mapping[str, Any], position: Position) -> None:
    if header.get("end_digest") != position.chain_digest.hex():
        raise damaged(_FOLD, f"it belongs to another history than entry {position.seq}")
