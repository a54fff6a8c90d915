from __future__ import annotations

import pytest

from errata.errors import ImpossibleEntryError, PreconditionError
from errata.log.chain import ChainedEntry
from errata.log.payload_convert import decode_payload
from errata_client._gen.errata.v1 import edit_log_pb2 as pb


def test_known_kind_is_decoded() -> None:
    payload = pb.EntryPayload(author="ada", edits_reverted=pb.EditsReverted(comment="c"))
    assert decode_payload(ChainedEntry(1, payload.SerializeToString(), bytes(32))) == payload


def test_unknown_kind_stops_the_reader_until_it_is_upgraded() -> None:
    with pytest.raises(PreconditionError, match="entry 7 has a kind"):
        decode_payload(ChainedEntry(7, b"\xa2\x06\x00", bytes(32)))


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff"])
def test_bytes_of_no_version_stop_the_reader_until_they_are_voided(data: bytes) -> None:
    with pytest.raises(ImpossibleEntryError, match="repair --seq 7"):
        decode_payload(ChainedEntry(7, data, bytes(32)))
