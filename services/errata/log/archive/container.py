"""The form of every file of the archive: what it is, of which log, in which format, and its body.

magic ‖ length of the header, 4 bytes, big endian ‖ header, JSON ‖ body, zlib
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from errata.errors import ArtifactCorruptError, PreconditionError
from errata.log.entry_bytes import inflate

FORMAT = 1
_MAGIC = b"errata archive\n"
_LENGTH_BYTES = 4
_MAX_BODY_BYTES = 2**30


def pack(kind: str, log_id: str, fields: Mapping[str, Any], body: bytes) -> bytes:
    """The bytes of a file.

    Args:
        kind: such as `segment`.
        log_id: of the log that the file belongs to.
        fields: of the header, as JSON values.
        body: its content, not compressed.
    """
    header = {"kind": kind, "format": FORMAT, "log_id": log_id, "body_bytes": len(body), **fields}
    text = json.dumps(header, sort_keys=True).encode()
    return _MAGIC + len(text).to_bytes(_LENGTH_BYTES, "big") + text + zlib.compress(body)


def unpack(data: bytes, kind: str, log_id: str) -> tuple[Mapping[str, Any], bytes]:
    """The header and the body of a file, whose bytes match their digest.

    Raises:
        PreconditionError: a newer version of Errata wrote it.
        ArtifactCorruptError: it is not such a file, is cut short, or belongs to another log.
    """
    header, packed = _header(data, kind)
    if header.get("format") != FORMAT:
        raise PreconditionError(
            f"the archive's {kind} has format {header.get('format')!r}; this version of Errata "
            f"reads format {FORMAT}. Upgrade the log service to the version that trimmed the log.",
            format=header.get("format"),
        )
    if header.get("log_id") != log_id:
        raise damaged(kind, f"it belongs to log {header.get('log_id')}, and not to {log_id}")
    return header, _body(header, packed, kind)


def damaged(kind: str, problem: str) -> ArtifactCorruptError:
    """The error for a file that cannot be used.

    Args:
        kind: of the file.
        problem: what is wrong with it; part of a sentence.
    """
    return ArtifactCorruptError(
        f"the archive's {kind} cannot be used: {problem}. Restore the artifact store from a "
        "backup; entries that are still in Redis are not affected."
    )


def _header(data: bytes, kind: str) -> tuple[Mapping[str, Any], bytes]:
    start = len(_MAGIC) + _LENGTH_BYTES
    if not data.startswith(_MAGIC) or len(data) < start:
        raise damaged(kind, "it is not a file of an archive")
    end = start + int.from_bytes(data[len(_MAGIC) : start], "big")
    try:
        header = json.loads(data[start:end])
    except ValueError as error:
        raise damaged(kind, "it is cut short") from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise damaged(kind, "it is a file of another kind")
    return header, data[end:]


def _body(header: Mapping[str, Any], packed: bytes, kind: str) -> bytes:
    size = header.get("body_bytes")
    if not isinstance(size, int) or not 0 <= size <= _MAX_BODY_BYTES:
        raise damaged(kind, f"its body cannot have {size!r} bytes")
    try:
        return inflate(packed, size)
    except ValueError as error:
        raise damaged(kind, str(error)) from error
