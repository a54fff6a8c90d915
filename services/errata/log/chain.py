"""The chain: each entry's digest covers the entry and all entries before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from errata.errors import LogBehindWitnessError

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Position:
    """A position in one particular history.

    Attributes:
        seq: the last entry's number; 0 before the first entry.
        chain_digest: H(seq), 32 bytes.
    """

    seq: int
    chain_digest: bytes


@dataclass(frozen=True, slots=True)
class ChainedEntry:
    """One entry as stored.

    Attributes:
        seq: its number, from 1.
        payload: the bytes that were digested; a serialized `EntryPayload`.
        chain_digest: H(seq).
    """

    seq: int
    payload: bytes
    chain_digest: bytes

    @property
    def position(self) -> Position:
        """The position after it, as stored."""
        return Position(self.seq, self.chain_digest)


ORIGIN = Position(0, bytes(DIGEST_BYTES))
"""The position before the first entry; H(0) is 32 zero bytes."""


def extend(position: Position, payload: bytes) -> Position:
    """The position after one more entry: H(n) = SHA-256(H(n−1) ‖ n ‖ SHA-256(payload)).

    n is 8 bytes, big endian.
    """
    seq = position.seq + 1
    digest = hashlib.sha256(
        position.chain_digest + seq.to_bytes(8, "big") + hashlib.sha256(payload).digest()
    )
    return Position(seq, digest.digest())


def verify_run(base: Position, entries: Sequence[ChainedEntry]) -> Position:
    """The position after `entries`, if they continue the history from `base`.

    Args:
        base: a trusted position.
        entries: the next entries, in order.

    Raises:
        LogBehindWitnessError: an entry is missing, repeated or out of order, or a digest does not
            match the bytes. Use none of the entries.
    """
    position = base
    for entry in entries:
        if entry.seq != position.seq + 1:
            raise LogBehindWitnessError(
                f"entry {entry.seq} follows entry {position.seq}: the log has a gap or repeats "
                "entries. Compare it with a replica's copy or a backup.",
                seq=entry.seq,
                expected_seq=position.seq + 1,
            )
        position = extend(position, entry.payload)
        if entry.chain_digest != position.chain_digest:
            raise LogBehindWitnessError(
                f"entry {entry.seq} does not continue the chain: it or an earlier entry was "
                "changed after it was written. Compare the log with a replica's copy or a backup.",
                seq=entry.seq,
                stored_digest=entry.chain_digest.hex(),
                computed_digest=position.chain_digest.hex(),
            )
    return position
