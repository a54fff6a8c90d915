"""Reads the log for the judge, and words what clients asked for as the log words it."""

from __future__ import annotations

import json
from collections.abc import Iterable

import grpc

from errata.log.canary_entries import CanaryEnded, Outcome
from errata.log.chain import ChainedEntry
from errata.log.convert import entry_from
from errata.log.entries import (
    EditsCommitted,
    EditsRejected,
    EditsRequested,
    EditsReverted,
    LaneCompacted,
    LaneConfigured,
    Payload,
)
from errata.log.payload_convert import decode
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from tests.robustness.fold_model import Kept, Kind
from tests.waiting import PATIENCE


def words_of_request(lane: str, edits: Iterable[tuple[str, str]]) -> str:
    """A request of edits: pairs of prompt and target."""
    return f"request {lane} {json.dumps(list(edits))}"


def words_of_reversal(names: Iterable[str]) -> str:
    """A reversal."""
    return f"revert {' '.join(names)}"


def words_of_lane(config: str) -> str:
    """A lane that a client of the log itself configured."""
    return f"lane {config}"


def _effect(payload: Payload) -> tuple[str, Kind, str, tuple[str, ...]]:
    """Content, kind, lane and edits."""
    match payload:
        case EditsRequested():
            pairs = [(str(edit.prompt), edit.target) for edit in payload.edits]
            names = tuple(edit.name for edit in payload.edits)
            return words_of_request(payload.lane, pairs), "requested", payload.lane, names
        case EditsCommitted():
            return "", "committed", payload.lane, payload.edits
        case EditsRejected():
            return "", "rejected", payload.lane, tuple(r.edit for r in payload.rejections)
        case EditsReverted():
            return words_of_reversal(payload.edits), "reverted", "", payload.edits
        case CanaryEnded(outcome=Outcome.ROLLED_BACK, edits=names):
            return "", "reverted", "", names
        case LaneCompacted():
            return f"compact {payload.lane}", "compacted", payload.lane, payload.edits
        case LaneConfigured():
            return words_of_lane(payload.config_json), "other", payload.lane, ()
    return "", "other", "", ()


def kept(stored: ChainedEntry) -> Kept:
    """An entry for the judge."""
    entry = decode(stored)
    content, kind, lane, edits = _effect(entry.payload)
    return Kept(
        stored.seq,
        entry.request_id,
        content,
        stored.payload,
        stored.chain_digest,
        kind,
        lane,
        edits,
    )


def read_log(address: str) -> list[Kept]:
    """All entries of a healthy log."""
    found: list[Kept] = []
    token = ""
    with grpc.insecure_channel(address) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        while True:
            request = pb.ListEntriesRequest(page_size=1000, page_token=token)
            page = stub.ListEntries(request, timeout=PATIENCE)
            found += [kept(entry_from(entry)) for entry in page.entries]
            token = page.next_page_token
            if not token:
                return found
