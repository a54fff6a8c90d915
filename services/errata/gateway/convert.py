"""The gateway's part of the protos: service names, and requests to every replica."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from errata.errors import InvalidRequestError
from errata.gateway.namespaces import drawn_key, readable
from errata.platform.limits_convert import check_request
from errata_client._gen.errata.v1 import catalog_pb2, edit_log_pb2, editing_pb2, inference_pb2

_EDITING = editing_pb2.DESCRIPTOR.services_by_name["EditingService"]
EDITING: str = _EDITING.full_name
_EDIT_LOG = edit_log_pb2.DESCRIPTOR.services_by_name["EditLogService"]
EDIT_LOG: str = _EDIT_LOG.full_name
_CATALOG = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"]
CATALOG: str = _CATALOG.full_name
INFERENCE: str = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
EDITING_METHODS = tuple(_EDITING.methods_by_name)
"""All methods of the edit-writer; the gateway forwards them."""

_REQUESTS: dict[str, Any] = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for service in (_EDITING, _EDIT_LOG, _CATALOG)
    for method in service.methods
}


def checked(path: str, data: bytes) -> Message:
    """The request of a call that is forwarded, if it keeps all limits.

    Args:
        path: of the method, such as `/errata.v1.EditingService/GetEdit`.
        data: the request as it was received.

    Raises:
        InvalidRequestError: no valid message, or as `check_request`.
        LimitExceededError: as `check_request`.
    """
    try:
        message = _REQUESTS[path].FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(
            "the request is not a valid message (bad encoding, or text that is not UTF-8); "
            "encode it with the published protos."
        ) from error
    check_request(message)
    return cast("Message", message)


def edits_of(request: Message) -> tuple[str, int] | None:
    """The lane and the number of the edits that a request lets fit; None if it is another one."""
    if isinstance(request, editing_pb2.SubmitEditsRequest):
        return request.lane, len(request.edits)
    if isinstance(request, editing_pb2.PreviewEditsRequest):
        return request.lane, len(request.edits) + len(request.names)
    return None


R = TypeVar(
    "R",
    inference_pb2.GenerateRequest,
    inference_pb2.StreamGenerateRequest,
    inference_pb2.ScoreRequest,
    inference_pb2.GenerateEverywhereRequest,
)


def as_read(request: R) -> R:
    """The request, with the namespaces that it reads and a canary key; raises as `readable`.

    A drawn key is drawn once, here: a worker that answers a retry must decide the same.
    """
    names = readable(request.namespaces)
    request.canary_key = request.canary_key or drawn_key()
    if names:
        del request.namespaces[:]
        request.namespaces.extend(names)
    return request


def request_to_each(
    request: inference_pb2.GenerateEverywhereRequest,
) -> inference_pb2.GenerateRequest:
    """The request to each replica; a field that was not set stays unset."""
    return inference_pb2.GenerateRequest(
        prompt=request.prompt,
        min_seq=request.min_seq if request.HasField("min_seq") else None,
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        stop=request.stop,
        sampling=request.sampling if request.HasField("sampling") else None,
        num_alternatives=(
            request.num_alternatives if request.HasField("num_alternatives") else None
        ),
        chat=request.chat if request.HasField("chat") else None,
        clip_max_tokens=request.clip_max_tokens,
        namespaces=request.namespaces,
        canary_key=request.canary_key,
    )


def everywhere_response(
    answers: Iterable[inference_pb2.ReplicaAnswer],
) -> inference_pb2.GenerateEverywhereResponse:
    """The replicas' answers, sorted by replica."""
    ranked = sorted(answers, key=lambda answer: answer.replica)
    return inference_pb2.GenerateEverywhereResponse(answers=ranked)
