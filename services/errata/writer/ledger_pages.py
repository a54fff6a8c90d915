"""The writer's ledger as pages of JSON, for snapshots: edits in log order, then request ids.

Edits are never taken from the ledger, so that only the pages of edits that are new or whose state
changed differ from those of an earlier snapshot.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.editing.lane.pages import page_ends
from errata.errors import ArtifactCorruptError
from errata.log.entries import UNTIMED, ArtifactRef, Figures, LaneConfigured, Schedule
from errata.platform.status_convert import status_bytes, status_error
from errata.replica.fold_pages import json_page, json_pages
from errata.writer.canary_book import CanaryRecord
from errata.writer.record import EditRecord, LedgerState, Review, State

_EDITS, _REQUESTS = "edits", "requests"


@dataclass(frozen=True, slots=True)
class _Stored:
    """An `EditRecord` in a page; its error as the bytes of a status, base64."""

    edit: Edit
    source: str
    lane: str
    author: str
    request_time: datetime
    state: State
    commit_seq: int
    revert_seq: int
    figures: Figures | None
    artifact: ArtifactRef | None
    base_model_digest: str
    error: str
    trace_parent: str
    subject_found: bool
    on_behalf_of: str = ""
    review: Review | None = None
    queued_seq: int = 0
    queue_time: datetime | None = None
    times: Schedule = UNTIMED


_PAGE = TypeAdapter(list[_Stored])
_PROMPTS = TypeAdapter(tuple[Prompt, ...])
_CANARIES = TypeAdapter(list[CanaryRecord])
_WITHOUT_CANARY = {"__all__": {"edit": {"canary"}}}


def ledger_pages(state: LedgerState) -> Iterator[bytes]:
    """The pages of a ledger; `read_ledger` reads them."""
    records = [_stored(record) for record in state.records]
    pages = [*_record_pages(records)]
    requests = [item for item in state.request_seqs.items() if not _is_own(item[0])]
    ids = [*json_pages(requests, [key for key, _ in requests])]
    yield json_page(
        {
            "seq": state.seq,
            "lanes": [[seq, asdict(lane)] for seq, lane in state.lanes.values()],
            "lane_models": dict(state.lane_models),
            "compactions": sorted(state.compactions.items()),
            "reviewed_lanes": sorted(state.reviewed_lanes),
            "decisions": sorted(state.decisions.items()),
            "probes": [state.probes_seq, _PROMPTS.dump_python(state.probes, mode="json")],
            _EDITS: len(pages),
            _REQUESTS: len(ids),
            **_canaries(state),
        }
    )
    yield from pages
    yield from ids


def read_ledger(pages: Sequence[bytes]) -> LedgerState:
    """The ledger that `ledger_pages` wrote.

    Raises:
        ArtifactCorruptError: these are not the pages of a ledger.
    """
    try:
        return _read(pages)
    except (KeyError, TypeError, ValueError, IndexError, ValidationError) as error:
        raise ArtifactCorruptError(
            f"the ledger in the snapshot cannot be read ({type(error).__name__})."
        ) from error


def _read(pages: Sequence[bytes]) -> LedgerState:
    head: dict[str, Any] = json.loads(pages[0])
    middle = 1 + int(head[_EDITS])
    if len(pages) != middle + int(head[_REQUESTS]):
        raise ValueError("pages are missing")
    configured = [(int(seq), LaneConfigured(**lane)) for seq, lane in head["lanes"]]
    probes_seq, probes = head.get("probes", (0, ()))
    return LedgerState(
        seq=int(head["seq"]),
        lanes={lane.lane: (seq, lane) for seq, lane in configured},
        lane_models=dict(head["lane_models"]),
        compactions={int(seq): str(lane) for seq, lane in head["compactions"]},
        records=[
            _record(stored) for page in pages[1:middle] for stored in _PAGE.validate_json(page)
        ],
        request_seqs={
            str(key): int(seq) for page in pages[middle:] for key, seq in json.loads(page)
        },
        probes=_PROMPTS.validate_python(probes),
        probes_seq=int(probes_seq),
        reviewed_lanes=frozenset(map(str, head.get("reviewed_lanes", ()))),
        decisions={int(seq): str(digest) for seq, digest in head.get("decisions", ())},
        canaries=_CANARIES.validate_python(head.get("canaries", ())),
    )


def _canaries(state: LedgerState) -> dict[str, Any]:
    if not state.canaries:
        return {}
    return {"canaries": _CANARIES.dump_python(list(state.canaries), mode="json")}


def _record_pages(records: Sequence[_Stored]) -> Iterator[bytes]:
    start = 0
    for end in page_ends((record.edit.name.encode(), 0) for record in records):
        page = list(records[start:end])
        # Pages without canaries are those that earlier versions wrote, byte for byte.
        has_canary = any(record.edit.canary for record in page)
        yield _PAGE.dump_json(page, exclude=None if has_canary else _WITHOUT_CANARY)
        start = end


def _stored(record: EditRecord) -> _Stored:
    error = "" if record.error is None else base64.b64encode(status_bytes(record.error)).decode()
    # A fit that is running now is repeated by whoever starts from here.
    state = State.REQUESTED if record.state is State.FITTING else record.state
    return _Stored(
        record.edit,
        record.source,
        record.lane,
        record.author,
        record.request_time,
        state,
        record.commit_seq,
        record.revert_seq,
        record.figures,
        record.artifact,
        record.base_model_digest,
        error,
        record.trace_parent,
        record.subject_found,
        record.on_behalf_of,
        record.review,
        record.queued_seq,
        record.queue_time,
        record.times,
    )


def _record(stored: _Stored) -> EditRecord:
    error = status_error(base64.b64decode(stored.error)) if stored.error else None
    return EditRecord(
        stored.edit,
        stored.source,
        stored.lane,
        stored.author,
        stored.request_time,
        stored.state,
        stored.commit_seq,
        stored.revert_seq,
        stored.figures,
        stored.artifact,
        stored.base_model_digest,
        error,
        stored.trace_parent,
        stored.subject_found,
        stored.on_behalf_of,
        stored.review,
        stored.queued_seq,
        stored.queue_time,
        stored.times,
    )


def _is_own(request_id: str) -> bool:
    """Whether it is an id of an act of the writer itself, of version 5: nobody asks for those."""
    return request_id[14:15] == "5"
