"""The audit log: who changed what, and who was refused; one JSON object a line, chained.

Each line holds the digest of the line before, so that a line which is taken out or altered shows:
`errata audit verify`. Lines hold no prompts, targets or answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from errata.errors import ErrataError, UnavailableError
from errata.platform.failpoints import failpoint

FIRST = "0" * 64
"""What the first line of all names as the digest before it."""
_DENIED = ("UNAUTHENTICATED", "PERMISSION_DENIED")


def outcome_of(error: BaseException | None) -> str:
    """What a line says of a call that ended so."""
    if error is None:
        return "ok"
    if isinstance(error, ErrataError):
        return error.reason
    return type(error).__name__


class AuditLog:
    """Appends lines to a file, and begins a new file when one is full."""

    def __init__(self, path: Path, *, service: str, max_bytes: int, reads: bool = False) -> None:
        """Continues the chain of the file that is there.

        Args:
            path: of the newest file; full ones get a number behind it.
            service: named in each line.
            max_bytes: of one file.
            reads: whether calls that change nothing get a line, too.

        Raises:
            UnavailableError: the file cannot be written, or its last line is none.
        """
        self._path = path
        self._service = service
        self._max_bytes = max_bytes
        self._reads = reads
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = _cut_unfinished(path)
            self._last = _last_digest(path)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"the audit log cannot be continued: {error}. Nothing is served without it; see "
                "`errata audit verify`."
            ) from error
        if unfinished:
            self.end("", "", "audit", f"{unfinished} bytes of an unfinished line were removed")

    def wants(self, begun: bool, error: BaseException | None) -> bool:
        """Whether a call that ended so gets a line.

        Args:
            begun: whether the call has one of its beginning.
            error: that ended it.
        """
        return begun or self._reads or (isinstance(error, ErrataError) and error.reason in _DENIED)

    def begin(self, subject: str, peer: str, method: str) -> None:
        """Writes the line before a change; it, and all lines before it, are on disk on return.

        Raises:
            UnavailableError: it could not be written; the caller must not go on.
        """
        self._write(subject, peer, method, "begun", 0, durable=True)

    def end(self, subject: str, peer: str, method: str, outcome: str, *, seq: int = 0) -> None:
        """Writes the line after a call; it survives the process, and the next `begin` syncs it.

        Raises:
            UnavailableError: it could not be written.
        """
        self._write(subject, peer, method, outcome, seq, durable=False)

    def _write(
        self, subject: str, peer: str, method: str, outcome: str, seq: int, *, durable: bool
    ) -> None:
        with self._lock:
            line = {
                "time": datetime.now(UTC).isoformat(),
                "service": self._service,
                "who": subject,
                "from": peer,
                "what": method.removeprefix("/"),
                "outcome": outcome,
                "seq": seq,
                "before": self._last,
            }
            data = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
            try:
                failpoint("audit.before_write")
                self._rotate(len(data))
                size = os.fstat(self._file).st_size
                try:
                    if os.write(self._file, data) != len(data):
                        raise OSError("the disk is full")
                    if durable:
                        failpoint("audit.before_sync")
                        os.fdatasync(self._file)
                        failpoint("audit.after_sync")
                except OSError:
                    os.ftruncate(self._file, size)  # no half line
                    raise
            except OSError as error:
                raise UnavailableError(
                    f"the audit log cannot be written ({error.strerror or error}), so nothing is "
                    "changed; free its disk."
                ) from error
            self._last = digest_of(data)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _rotate(self, size: int) -> None:
        held = os.fstat(self._file).st_size
        if not held or held + size <= self._max_bytes:
            return
        number = 1 + max((found for found, _ in _full_files(self._path)), default=0)
        os.rename(self._path, self._path.with_name(f"{self._path.name}.{number}"))
        os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def digest_of(line: bytes) -> str:
    """SHA-256, hex, of a line with its end."""
    return hashlib.sha256(line).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong with an audit log.

    Attributes:
        file: where.
        line: its number, from 1.
        what: in words.
    """

    file: Path
    line: int
    what: str


def verify(path: Path) -> tuple[int, Problem | None]:
    """Reads all files of an audit log, oldest first.

    Returns:
        Number of sound lines, and the first problem behind them.

    Raises:
        OSError: a file cannot be read.
    """
    before = FIRST
    sound = 0
    for file in _files(path):
        for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1):
            try:
                named = _parsed(line)["before"]
            except (ValueError, KeyError) as error:
                return sound, Problem(file, number, f"it is no audit line: {error}")
            if named != before:
                return sound, Problem(
                    file, number, "the line before it was altered, or lines are missing"
                )
            before = digest_of(line)
            sound += 1
    return sound, None


def _parsed(line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict) or not line.endswith(b"\n"):
        raise ValueError("no whole JSON object")
    return found


def _files(path: Path) -> list[Path]:
    full = [file for _, file in _full_files(path)]
    return [*full, path] if path.exists() else full


def _full_files(path: Path) -> list[tuple[int, Path]]:
    found = path.parent.glob(f"{path.name}.*") if path.parent.exists() else ()
    numbered = [(file.name.removeprefix(f"{path.name}."), file) for file in found]
    return sorted((int(number), file) for number, file in numbered if number.isdecimal())


def _cut_unfinished(path: Path) -> int:
    """Removes the line that the machine's end cut short; returns its number of bytes."""
    held = path.read_bytes() if path.exists() else b""
    whole = held.rfind(b"\n") + 1
    if whole < len(held):
        os.truncate(path, whole)
    return len(held) - whole


def _last_digest(path: Path) -> str:
    """The digest of the newest line."""
    for file in reversed(_files(path)):
        held = file.read_bytes().splitlines(keepends=True)
        if held:
            _parsed(held[-1])
            return digest_of(held[-1])
    return FIRST
