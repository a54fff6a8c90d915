"""Where a reader of the log begins: behind the newest usable snapshot, else before entry 1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from errata.errors import ErrataError, SeqTrimmedError
from errata.log.entries import SnapshotTaken
from errata.log.history import LogState
from errata.platform.retry import until_available
from errata.replica.snapshot import Snapshot

_log = structlog.get_logger(__name__)


async def begin(
    state: LogState,
    load: Callable[[SnapshotTaken], Awaitable[Snapshot]],
    restore: Callable[[Snapshot], Awaitable[None]],
) -> Snapshot | None:
    """Loads and restores the newest snapshot; says in the process's log why it does not.

    Args:
        state: of the log.
        load: loads and checks a snapshot; it is repeated while the artifacts are unavailable.
        restore: puts it into the process, or leaves the process as it was and raises.

    Returns:
        The snapshot that was restored; None if the log must be read from its first entry.

    Raises:
        SeqTrimmedError: the snapshot cannot be used, and the log no longer has its first entry.
    """
    named = state.snapshot
    if named is None:
        return None
    try:
        snapshot = await until_available(lambda: load(named), "artifacts")
        await restore(snapshot)
    except ErrataError as error:
        if state.floor_seq > 1:
            raise SeqTrimmedError(
                f"the snapshot at entry {named.seq} cannot be used: {error.message} The log was "
                f"trimmed up to entry {state.floor_seq - 1}, so this process cannot start. Restore "
                "the artifacts from a backup; see docs/snapshots.md.",
                floor_seq=state.floor_seq,
                snapshot_seq=named.seq,
            ) from error
        _log.error(
            "the snapshot cannot be used; the log is read from entry 1, which takes longer. See "
            "docs/snapshots.md",
            seq=named.seq,
            manifest=named.manifest.digest,
            reason=error.message,
        )
        return None
    _log.info("started from a snapshot", seq=named.seq, verified_by=named.verified_by)
    return snapshot
