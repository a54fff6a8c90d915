from __future__ import annotations

import pytest

from errata.errors import PreconditionError
from errata.log.chain import ChainedEntry
from errata.log.payload_convert import decode_payload
from errata_client._gen.errata.v1 import edit_log_pb2 as pb


def test_known_kind_is_decoded() -> None:
    payload = pb.EntryPayload(author="ada", edits_reverted=pb.EditsReverted(comment="c"))
    assert decode_payload(ChainedEntry(1, payload.SerializeToString(), bytes(32))) == payload


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"\xa2\x06\x00"])
def test_unknown_kind_stops_the_reader(data: bytes) -> None:
    with pytest.raises(PreconditionError, match="entry 7"):
        decode_payload(ChainedEntry(7, data, bytes(32)))
