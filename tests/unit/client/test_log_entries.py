"""`errata log` lists every entry, those that no reader can apply included."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from errata_client import LogEntry
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


def _entry(**kind: Any) -> LogEntry:
    payload = pb.EntryPayload(**kind).SerializeToString()
    return log_entry(pb.LogEntry(seq=9, payload=payload))


def test_entries_about_canaries_say_who_is_in_them_and_how_they_ended() -> None:
    opened = _entry(
        canary_set=pb.CanarySet(
            canary="canaries/july",
            lane="lanes/facts",
            share_ppm=25_000,
            readers=["beta"],
            comment="ticket 12",
        )
    )
    assert (opened.kind, opened.edits) == ("canary_set", ())
    assert opened.detail == ("canaries/july of lanes/facts: share 2.5%, readers beta: ticket 12")
    stopped = _entry(
        canary_set=pb.CanarySet(canary="canaries/july", comment="too slow", rolls_back=True)
    )
    assert stopped.detail == "canaries/july is being rolled back: too slow"
    ended = _entry(
        canary_ended=pb.CanaryEnded(
            canary="canaries/july",
            outcome=pb.CanaryEnded.OUTCOME_ROLLED_BACK,
            edits=["edits/4-0"],
        )
    )
    assert (ended.kind, ended.edits) == ("canary_ended", ("edits/4-0",))
    assert ended.detail == "canaries/july rolled back"


def test_edits_of_a_canary_are_listed_with_it() -> None:
    requested = pb.EditsRequested(lane="lanes/facts")
    for canary in ("canaries/july", "", "canaries/july"):
        requested.edits.add(prompt="a", target="b", canary=canary)
    entry = _entry(edits_canaried=requested)
    assert entry.edits == ("edits/9-0", "edits/9-1", "edits/9-2")
    assert entry.detail == "lanes/facts, canaries/july"
