"""One append: the entry that a writer sends, and the answer of the script in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from errata.errors import EpochLostError, ErrataError, LimitExceededError, RequestIdReusedError


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry that a writer asks the log to append.

    Attributes:
        epoch: the writer's.
        request_id: idempotency key, a UUID in canonical form.
        content_digest: SHA-256 of the content, without key and time.
        payload: the bytes to store, with both.
        leaves_reserve: refuse it once Redis has only its reserve left.
    """

    epoch: int
    request_id: str
    content_digest: bytes
    payload: bytes
    leaves_reserve: bool = False


class AppendOutcome(StrEnum):
    """The append script's decision; it writes only for OK (and a counter for DUPLICATE)."""

    OK = "OK"
    DUPLICATE = "DUP"
    CONFLICT = "CONFLICT"
    FENCED = "FENCED"
    REFUSED = "REFUSED"
    TOO_BIG = "TOOBIG"
    RESERVED = "RESERVED"
    MOVED = "MOVED"
    FOREIGN = "FOREIGN"


def epoch_lost(epoch: int, active: int) -> EpochLostError:
    """The error for a call under `epoch` while another one is active."""
    return EpochLostError(
        f"epoch {epoch} is not active; the active epoch is {active}, because another writer took "
        "over. Nothing was appended; acquire a new epoch to write again.",
        epoch=epoch,
        current_epoch=active,
    )


def refusal(
    outcome: AppendOutcome, number: int, entry: NewEntry, max_payload_bytes: int
) -> ErrataError:
    """The error for an append that the script refused because of its content, id or epoch.

    Args:
        outcome: FENCED, CONFLICT, RESERVED or TOO_BIG.
        number: the current epoch, the first entry's seq, Redis' free bytes, or the payload's size.
        entry: the refused entry.
        max_payload_bytes: the limit for a payload.
    """
    match outcome:
        case AppendOutcome.FENCED:
            return epoch_lost(entry.epoch, number)
        case AppendOutcome.CONFLICT:
            return RequestIdReusedError(
                f"request id {entry.request_id} was used for entry {number} with other content. "
                "Use a new id for a new request.",
                field="request_id",
                first_seq=number,
            )
        case AppendOutcome.RESERVED:
            return LimitExceededError(
                f"the log's Redis has {number:,} bytes left, which are reserved for reverts and a "
                "new writer; no edit was accepted. Give it more memory (maxmemory), then retry "
                "with the same request id.",
                free_bytes=number,
            )
        case _:
            return LimitExceededError(
                f"the entry has {number:,} bytes; the limit is {max_payload_bytes:,}. "
                "Split the request.",
                field="payload",
                size_bytes=number,
                max_payload_bytes=max_payload_bytes,
            )


@dataclass(frozen=True, slots=True)
class Appended:
    """The position of an entry; `duplicate` if an earlier append with the same key made it."""

    seq: int
    duplicate: bool
