"""The calls that pages make, and what they read in the answers: the SDK's own, by page.

The SDK makes the requests and reads the answers; here are the sizes of pages, and the few fields
that people see and programs do not ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from errata.editing.namespaces import shown
from errata.log.chain import ChainedEntry
from errata_client import _calls, _canary_calls, _catalog_calls, _convert, _policy_calls
from errata_client._calls import Call as Call
from errata_client._calls import Page as Page
from errata_client._entry_convert import log_entry
from errata_client._gen.errata.v1 import (
    catalog_pb2,
    edit_log_pb2,
    editing_pb2,
    inference_pb2,
)
from errata_client.canary import Canary, CanaryRule
from errata_client.edits import Edit, EditSpec, EditState
from errata_client.policy import Decision, Preview
from errata_client.prompts import Prompt
from errata_client.types import Answer, Head, Lane, LogEntry, Model, Replica, Reversal, Score

_SERVICES = {
    service.name: service
    for file in (catalog_pb2, edit_log_pb2, editing_pb2, inference_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
_LANES = 1_000


@dataclass(frozen=True, slots=True)
class Placed:
    """A replica, and its state digest at the position that was asked for; empty if unknown."""

    replica: Replica
    digest_at: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as people read it, and as it is stored.

    Attributes:
        shown: what it says.
        stored: the bytes that the chain covers.
        content: the whole payload as JSON; empty if it cannot be read, or was not asked for.
    """

    shown: LogEntry
    stored: ChainedEntry
    content: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Which edits are wanted; empty fields want all."""

    state: EditState | None = None
    lane: str = ""
    author: str = ""
    contains: str = ""
    since: datetime | None = None
    until: datetime | None = None
    namespace: str | None = None


def replied(call: Call[Any]) -> Any:
    """The class of a call's answer."""
    return GetMessageClass(_SERVICES[call.service].methods_by_name[call.method].output_type)


def head() -> Call[Head]:
    """The log's head."""
    return _calls.get_head()


def replicas(at_seq: int) -> Call[list[Placed]]:
    """The replicas that reported recently, with their digests at a position."""
    request = edit_log_pb2.ListReplicasRequest(page_size=1_000, at_seq=at_seq)
    return Call(
        "EditLogService",
        "ListReplicas",
        request,
        lambda r: [Placed(_convert.replica(one), one.digest_at) for one in r.replicas],
    )


def entries(from_seq: int, size: int, *, with_content: bool = False) -> Call[Page[Entry]]:
    """A page of the log, which may have fewer entries than are asked for."""
    request = edit_log_pb2.ListEntriesRequest(page_size=size, from_seq=from_seq)
    return Call(
        "EditLogService",
        "ListEntries",
        request,
        lambda r: Page([_entry(each, with_content) for each in r.entries], r.next_page_token),
    )


def _entry(message: edit_log_pb2.LogEntry, with_content: bool) -> Entry:
    stored = ChainedEntry(message.seq, message.payload, message.chain_digest)
    content = _content(message.payload) if with_content else ""
    return Entry(log_entry(message), stored, content)


def _content(payload: bytes) -> str:
    try:
        return json_format.MessageToJson(
            edit_log_pb2.EntryPayload.FromString(payload),
            preserving_proto_field_name=True,
            ensure_ascii=False,
        )
    except (DecodeError, json_format.Error, TypeError, ValueError):
        return ""  # of a newer release, or an impossible entry


def lanes() -> Call[list[Lane]]:
    """The lanes."""
    call = _calls.list_lanes("")
    call.request.page_size = _LANES
    return Call(call.service, call.method, call.request, lambda r: call.parse(r).items)


def edits(wanted: Filters, size: int, page_token: str = "") -> Call[Page[Edit]]:
    """A page of edits, in log order."""
    call = _calls.list_edits(
        wanted.state,
        wanted.lane,
        wanted.author,
        wanted.since,
        wanted.until,
        wanted.contains,
        wanted.namespace,
        "",
        page_token,
    )
    call.request.page_size = size
    return call


def found(wanted: Filters, size: int, page_token: str = "") -> Call[Page[Edit]]:
    """A page of edits from the catalog: those that match a text best, or the newest first."""
    states = () if wanted.state is None else (wanted.state,)
    call = _catalog_calls.find_edits(
        wanted.contains,
        states,
        wanted.lane,
        wanted.author,
        "",
        "",
        wanted.since,
        wanted.until,
        wanted.namespace,
        not wanted.contains,
        None,
        size,
        page_token,
    )

    def parse(response: Any) -> Page[Edit]:
        page = call.parse(response)
        return Page([each.edit for each in page.items], page.next_page_token)

    return Call(call.service, call.method, call.request, parse)


def edit(name: str) -> Call[Edit]:
    """One edit."""
    return _calls.get_edit(name)


def submission(spec: EditSpec, lane: str, author: str, request_id: str) -> Call[list[Edit]]:
    """Submits one edit."""
    return _calls.submit_edits([spec], lane, author, request_id)


def preview(spec: EditSpec, lane: str) -> Call[list[Preview]]:
    """Tries an edit."""
    return _policy_calls.preview_edits([spec], lane)


def preview_of(name: str) -> Call[list[Preview]]:
    """Tries an edit that waits."""
    return _policy_calls.preview_names([name])


def review(
    names: Sequence[str], approve: bool, comment: str, author: str, request_id: str
) -> Call[Decision]:
    """Decides on edits."""
    return _policy_calls.review_edits(names, approve, comment, author, request_id)


def withdrawal(name: str, comment: str, author: str, request_id: str) -> Call[Decision]:
    """Withdraws an edit."""
    return _policy_calls.withdraw_edits([name], comment, author, request_id)


def reversal(name: str, comment: str, author: str, request_id: str) -> Call[Reversal]:
    """Reverts an edit."""
    return _calls.revert_edits([name], comment, author, request_id)


def canaries(size: int, page_token: str = "", *, only_open: bool = False) -> Call[Page[Canary]]:
    """A page of canaries, newest first."""
    call = _canary_calls.list_canaries(only_open, page_token)
    call.request.page_size = size
    return call


def canary(name: str) -> Call[Canary]:
    """One canary."""
    return _canary_calls.get_canary(name)


def canary_setting(
    name: str,
    share: float,
    lane: str,
    namespace: str,
    readers: Sequence[str],
    rule: CanaryRule | None,
    must_be_new: bool,
    comment: str,
    author: str,
    request_id: str,
) -> Call[Canary]:
    """Opens a canary, or changes who is in it."""
    return _canary_calls.set_canary(
        name, share, lane, namespace, readers, rule, must_be_new, comment, author, request_id
    )


def canary_end(
    name: str, promote: bool, comment: str, author: str, request_id: str
) -> Call[Canary]:
    """Promotes a canary, or rolls it back."""
    return _canary_calls.end_canary(name, promote, comment, author, request_id)


def model() -> Call[Model]:
    """The served model."""
    return _calls.get_model()


def answer(
    prompt: Prompt,
    min_seq: int | None,
    max_tokens: int,
    namespaces: Sequence[str] = (),
    canary_key: str = "",
) -> Call[Answer]:
    """A greedy answer; what the model's window leaves, at most `max_tokens`."""
    call = _calls.generate(
        prompt,
        min_seq=min_seq,
        max_tokens=max_tokens,
        stop=(),
        sampling=None,
        num_alternatives=None,
        namespaces=namespaces,
        canary_key=canary_key,
    )
    cast("inference_pb2.GenerateRequest", call.request).clip_max_tokens = True
    return call


def target_score(edit: EditSpec) -> Call[Score]:
    """How likely an edit's target is where the edit is read."""
    return _calls.score(edit.prompt, edit.target, None, edit.separator, read_by(edit))


def read_by(edit: EditSpec) -> tuple[str, ...]:
    """The namespaces of a request that reads the edit's alone."""
    return (shown(edit.namespace),)
