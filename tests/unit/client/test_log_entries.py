"""`errata log` lists every entry, those that no reader can apply included."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from errata_client._entry_convert import log_entry
from errata_client._gen.errata.v1 import edit_log_pb2 as pb


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xff\xff",
        b"\xa2\x06\x00",
        pb.EntryPayload(
            append_time=Timestamp(seconds=2**62), edits_reverted=pb.EditsReverted()
        ).SerializeToString(),
    ],
)
def test_entry_that_cannot_be_read_is_listed(payload: bytes) -> None:
    entry = log_entry(pb.LogEntry(seq=7, payload=payload, chain_digest=bytes(32)))
    assert (entry.seq, entry.kind, entry.edits) == (7, "", ())


def test_voided_entry_is_named() -> None:
    payload = pb.EntryPayload(entry_voided=pb.EntryVoided(seq=3, reason="smuggled"))
    entry = log_entry(pb.LogEntry(seq=4, payload=payload.SerializeToString()))
    assert (entry.kind, entry.detail) == ("entry_voided", "entry 3: smuggled")
