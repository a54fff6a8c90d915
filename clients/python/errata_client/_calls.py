"""Every operation of the SDK, defined once: its RPC, its request, and how to read the response.

`Client` and `AsyncClient` differ only in how they wait.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from errata_client import _convert, _policy_convert, types
from errata_client._chat import chats_in, prompt_fields, text, texts_in
from errata_client._entry_convert import log_entry
from errata_client._gen.errata.v1 import (
    edit_log_pb2,
    editing_pb2,
    inference_pb2,
    types_pb2,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One RPC.

    Attributes:
        service: such as `EditingService`.
        method: name of the RPC.
        request: the message.
        parse: reads the response.
    """

    service: str
    method: str
    request: Any
    parse: Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, and the token of the next (empty on the last)."""

    items: list[T]
    next_page_token: str


def spec_message(spec: types.EditSpec, field: str) -> types_pb2.EditSpec:
    """A correction to send; `field` is its place in the request."""
    return types_pb2.EditSpec(
        **prompt_fields(spec.prompt, f"{field}."),
        target=text(spec.target, f"{field}.target"),
        subject=text(spec.subject, f"{field}.subject"),
        rephrases=texts_in(spec.rephrases, f"{field}.rephrases"),
        chat_rephrases=chats_in(spec.rephrases, f"{field}.chat_rephrases"),
        locality_probes=texts_in(spec.locality_probes, f"{field}.locality_probes"),
        chat_locality_probes=chats_in(spec.locality_probes, f"{field}.chat_locality_probes"),
        source=text(spec.source, f"{field}.source"),
        separator=spec.separator,
        effective_from=timestamp(spec.effective_from),
        expires_at=timestamp(spec.expires_at),
        namespace=text(spec.namespace, f"{field}.namespace"),
        canary=text(spec.canary, f"{field}.canary"),
    )


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time to send. A time without a zone is local time; protobuf would read it as UTC."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


def submit_edits(
    edits: Iterable[types.EditSpec], lane: str, author: str, request_id: str | None
) -> Call[list[types.Edit]]:
    """Submits corrections; the request id is created once, before any retry."""
    request = editing_pb2.SubmitEditsRequest(
        request_id=request_id or str(uuid.uuid4()),
        edits=[spec_message(spec, f"edits[{index}]") for index, spec in enumerate(edits)],
        lane=lane,
        author=text(author, "author"),
    )
    return Call("EditingService", "SubmitEdits", request, _policy_convert.submitted)


def _edits(messages: Iterable[editing_pb2.Edit]) -> list[types.Edit]:
    return [_convert.edit(message) for message in messages]


def get_edit(name: str) -> Call[types.Edit]:
    """One edit."""
    request = editing_pb2.GetEditRequest(name=name)
    return Call("EditingService", "GetEdit", request, lambda r: _convert.edit(r.edit))


def wait_edits(names: Sequence[str]) -> Call[list[types.Edit]]:
    """Waits for edits to settle."""
    request = editing_pb2.WaitEditsRequest(names=names)
    return Call("EditingService", "WaitEdits", request, lambda r: _edits(r.edits))


def list_edits(
    state: types.EditState | None,
    lane: str,
    author: str,
    since: datetime | None,
    until: datetime | None,
    contains: str,
    namespace: str | None,
    canary: str,
    page_token: str,
) -> Call[Page[types.Edit]]:
    """A page of edits."""
    request = editing_pb2.ListEditsRequest(
        page_size=1_000,
        page_token=page_token,
        state=editing_pb2.Edit.State.ValueType(state.value if state else 0),
        lane=text(lane, "lane"),
        author=text(author, "author"),
        contains=text(contains, "contains"),
        namespace=None if namespace is None else text(namespace, "namespace"),
        canary=text(canary, "canary"),
        from_time=timestamp(since),
        until_time=timestamp(until),
    )
    return Call(
        "EditingService",
        "ListEdits",
        request,
        lambda r: Page(_edits(r.edits), r.next_page_token),
    )


def revert_edits(
    names: Sequence[str], comment: str, author: str, request_id: str | None
) -> Call[types.Reversal]:
    """Reverts edits."""
    request = editing_pb2.RevertEditsRequest(
        request_id=request_id or str(uuid.uuid4()),
        names=names,
        comment=text(comment, "comment"),
        author=text(author, "author"),
    )
    return Call(
        "EditingService",
        "RevertEdits",
        request,
        lambda r: types.Reversal(r.seq, tuple(r.meanings)),
    )


def compact_lane(
    lane: str, num_experts: int, max_loss: float | None, author: str, request_id: str | None
) -> Call[types.Compaction]:
    """Retrains a lane."""
    request = editing_pb2.CompactLaneRequest(
        request_id=request_id or str(uuid.uuid4()),
        lane=text(lane, "lane"),
        num_experts=num_experts,
        max_loss=max_loss,
        author=text(author, "author"),
    )
    return Call("EditingService", "CompactLane", request, _convert.compaction)


def list_lanes(page_token: str) -> Call[Page[types.Lane]]:
    """A page of lanes."""
    request = editing_pb2.ListLanesRequest(page_size=1_000, page_token=page_token)
    return Call(
        "EditingService",
        "ListLanes",
        request,
        lambda r: Page([_convert.lane(lane) for lane in r.lanes], r.next_page_token),
    )


def _options(
    prompt: types.Prompt,
    min_seq: int | None,
    max_tokens: int | None,
    stop: Sequence[str],
    sampling: types.Sampling | None,
    num_alternatives: int | None,
    namespaces: str | Sequence[str] = (),
    canary_key: str = "",
) -> dict[str, Any]:
    """The fields that all requests for a continuation share."""
    return {
        **prompt_fields(prompt),
        "min_seq": min_seq,
        "max_tokens": max_tokens,
        "stop": [text(one, f"stop[{index}]") for index, one in enumerate(stop)],
        "sampling": None if sampling is None else inference_pb2.Sampling(**asdict(sampling)),
        "num_alternatives": num_alternatives,
        "namespaces": names_in(namespaces, "namespaces"),
        "canary_key": text(canary_key, "canary_key"),
    }


def names_in(namespaces: str | Sequence[str], field: str) -> list[str]:
    """Names of namespaces for a field of a request; a text is one name."""
    names = [namespaces] if isinstance(namespaces, str) else namespaces
    return [text(name, f"{field}[{index}]") for index, name in enumerate(names)]


def generate(prompt: types.Prompt, **options: Any) -> Call[types.Answer]:
    """A continuation; `options` are those of `_options`."""
    request = inference_pb2.GenerateRequest(**_options(prompt, **options))
    return Call("InferenceService", "Generate", request, _convert.answer)


def stream_generate(prompt: types.Prompt, **options: Any) -> Call[types.Chunk]:
    """A continuation, streamed."""
    request = inference_pb2.StreamGenerateRequest(**_options(prompt, **options))
    return Call("InferenceService", "StreamGenerate", request, _convert.chunk)


def generate_everywhere(prompt: types.Prompt, **options: Any) -> Call[list[types.ReplicaAnswer]]:
    """A continuation from every replica."""
    values = _options(prompt, **options)
    request = inference_pb2.GenerateEverywhereRequest(**values)
    return Call(
        "InferenceService",
        "GenerateEverywhere",
        request,
        lambda r: [_convert.replica_answer(answer) for answer in r.answers],
    )


def score(
    prompt: types.Prompt,
    continuation: str,
    min_seq: int | None,
    separator: str | None,
    namespaces: str | Sequence[str] = (),
    canary_key: str = "",
) -> Call[types.Score]:
    """Probability of a continuation."""
    request = inference_pb2.ScoreRequest(
        **prompt_fields(prompt),
        continuation=text(continuation, "continuation"),
        min_seq=min_seq,
        separator=separator,
        namespaces=names_in(namespaces, "namespaces"),
        canary_key=text(canary_key, "canary_key"),
    )
    return Call("InferenceService", "Score", request, _convert.score)


def get_model() -> Call[types.Model]:
    """The model that is served."""
    return Call("InferenceService", "GetModel", inference_pb2.GetModelRequest(), _convert.model)


def get_head() -> Call[types.Head]:
    """The log's head."""
    return Call("EditLogService", "GetHead", edit_log_pb2.GetHeadRequest(), _convert.head)


def list_entries(from_seq: int, page_token: str) -> Call[Page[types.LogEntry]]:
    """A page of log entries."""
    request = edit_log_pb2.ListEntriesRequest(
        page_size=500, page_token=page_token, from_seq=from_seq
    )
    return Call(
        "EditLogService",
        "ListEntries",
        request,
        lambda r: Page([log_entry(entry) for entry in r.entries], r.next_page_token),
    )


def list_replicas(page_token: str) -> Call[Page[types.Replica]]:
    """A page of replicas."""
    request = edit_log_pb2.ListReplicasRequest(page_size=1_000, page_token=page_token)
    return Call(
        "EditLogService",
        "ListReplicas",
        request,
        lambda r: Page([_convert.replica(replica) for replica in r.replicas], r.next_page_token),
    )
