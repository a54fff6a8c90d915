"""The manifest of a backup: written last, so a backup without one is not a backup.

It is JSON with a SHA-256 of itself. It lists every file that the backup needs, by digest and size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from errata.artifacts.source import check_digest
from errata.errors import DataLossError, ErrataError, PreconditionError
from errata.log.chain import DIGEST_BYTES, ORIGIN, Position
from errata.log.entries import ArtifactRef

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A file with entries.

    Attributes:
        digest: SHA-256 of the file, hex; its name.
        size_bytes: of the file.
        raw_bytes: of its content before compression.
        first_seq: its first entry.
        last_seq: its last entry.
        chain_digest: H(last_seq), hex.
    """

    digest: str
    size_bytes: int
    raw_bytes: int
    first_seq: int
    last_seq: int
    chain_digest: str

    @property
    def end(self) -> Position:
        """The position of its last entry."""
        return Position(self.last_seq, bytes.fromhex(self.chain_digest))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds.

    Attributes:
        log_id: the log that was copied.
        head_seq: its last entry in the backup.
        chain_digest: H(head_seq), hex.
        epoch: the log's epoch at that time.
        base_model_digest: of the model that the log is for; empty before its first lane.
        created: when the backup began, ISO 8601, UTC.
        segments: the entries, from 1 to `head_seq`.
        artifacts: what the entries name, by digest.
    """

    log_id: str
    head_seq: int
    chain_digest: str
    epoch: int
    base_model_digest: str
    created: str
    segments: tuple[Segment, ...]
    artifacts: tuple[ArtifactRef, ...]

    @property
    def head(self) -> Position:
        """The position of its last entry."""
        return Position(self.head_seq, bytes.fromhex(self.chain_digest))

    def encoded(self) -> bytes:
        """The bytes of the file."""
        said = {"format": FORMAT, **asdict(self)}
        return json.dumps({"sha256": _digest(said), **said}, indent=1).encode()


def read_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in a file.

    Args:
        data: the file.
        where: the backup, for messages.

    Raises:
        DataLossError: the file is cut short or was changed.
        PreconditionError: a later version of Errata wrote it.
    """
    try:
        said = json.loads(data)
        if said.pop("sha256") != _digest(said):
            raise ValueError("its digest is another one")
        if said.pop("format") > FORMAT:
            raise _newer(where)
        return _checked(said)
    except (ErrataError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, PreconditionError):
            raise
        raise DataLossError(
            f"the manifest of the backup {where} is damaged ({error}); nothing was changed. Make a "
            "new backup, or take another copy of this one."
        ) from error


def _checked(said: Mapping[str, Any]) -> Manifest:
    segments = tuple(Segment(**segment) for segment in said["segments"])
    artifacts = tuple(ArtifactRef(**artifact) for artifact in said["artifacts"])
    manifest = Manifest(**{**said, "segments": segments, "artifacts": artifacts})
    end = ORIGIN
    for segment in segments:
        if segment.first_seq != end.seq + 1 or segment.last_seq < segment.first_seq:
            raise ValueError(f"segment {segment.digest} does not follow entry {end.seq}")
        check_digest(segment.digest)
        end = segment.end
    for artifact in artifacts:
        check_digest(artifact.digest)
    if end != manifest.head or len(end.chain_digest) != DIGEST_BYTES:
        raise ValueError(f"its segments end at {end.seq}, and not at {manifest.head_seq}")
    if len(bytes.fromhex(manifest.log_id)) != 16:
        raise ValueError("it names no log")
    sizes = [segment.size_bytes for segment in segments] + [ref.size_bytes for ref in artifacts]
    numbers = [manifest.epoch, *sizes]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a number is none")
    return manifest


def _digest(said: Mapping[str, Any]) -> str:
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _newer(where: str) -> PreconditionError:
    return PreconditionError(
        f"the backup {where} was made by a later version of Errata; upgrade this one. Nothing was "
        "changed."
    )
