"""Editing, the catalog and the log as JSON: one table of routes, and protobuf's own JSON.

Fields have their names in the protos; 64-bit numbers are strings and bytes are Base64, as in every
JSON of protobuf.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2

from errata.errors import InvalidRequestError
from errata.platform.limits_convert import check_request
from errata_client._gen.errata.v1 import catalog_pb2, edit_log_pb2, editing_pb2

_EDITING = editing_pb2.DESCRIPTOR.services_by_name["EditingService"]
_EDIT_LOG = edit_log_pb2.DESCRIPTOR.services_by_name["EditLogService"]
_CATALOG = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"]
_BOOLS = {"true": True, "false": False}
_TAGS = {_EDITING: "editing", _EDIT_LOG: "log", _CATALOG: "catalog"}
# Rejections carry these packed; JSON of a packed message needs its type to be loaded.
_PACKED = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)


@dataclass(frozen=True, slots=True)
class RestRoute:
    """One route.

    Attributes:
        verb: GET takes the request's fields from the query, POST from a JSON body.
        path: may hold one parameter.
        rpc: the method that it calls.
        bound: the request's field that the path's parameter sets.
        collection: stands before the parameter in a resource name, such as `edits/`.
    """

    verb: str
    path: str
    rpc: MethodDescriptor
    bound: str = ""
    collection: str = ""

    @property
    def service(self) -> str:
        """Full name of the service."""
        return str(self.rpc.containing_service.full_name)

    @property
    def tag(self) -> str:
        """What the route is about."""
        return _TAGS[self.rpc.containing_service]

    @property
    def rpc_path(self) -> str:
        """The RPC's path."""
        return f"/{self.service}/{self.rpc.name}"

    @property
    def is_idempotent_by_id(self) -> bool:
        """Whether the request has a request id."""
        return "request_id" in self.rpc.input_type.fields_by_name


def _editing(verb: str, path: str, name: str, **bound: str) -> RestRoute:
    return RestRoute(verb, path, _EDITING.methods_by_name[name], **bound)


def _log(path: str, name: str) -> RestRoute:
    return RestRoute("GET", path, _EDIT_LOG.methods_by_name[name])


def _catalog(path: str, name: str) -> RestRoute:
    return RestRoute("GET", path, _CATALOG.methods_by_name[name])


ROUTES: tuple[RestRoute, ...] = (
    _editing("POST", "/v1/edits", "SubmitEdits"),
    _editing("GET", "/v1/edits", "ListEdits"),
    _catalog("/v1/edits:search", "FindEdits"),
    _editing("GET", "/v1/edits/{edit}", "GetEdit", bound="name", collection="edits/"),
    _editing("POST", "/v1/edits:wait", "WaitEdits"),
    _editing("POST", "/v1/edits:revert", "RevertEdits"),
    _editing("POST", "/v1/edits:preview", "PreviewEdits"),
    _editing("POST", "/v1/edits:review", "ReviewEdits"),
    _editing("POST", "/v1/edits:withdraw", "WithdrawEdits"),
    _editing("GET", "/v1/canaries", "ListCanaries"),
    _editing("POST", "/v1/canaries", "SetCanary"),
    _editing(
        "POST", "/v1/canaries/{canary}:end", "EndCanary", bound="name", collection="canaries/"
    ),
    _editing("GET", "/v1/probes", "GetProbes"),
    _editing("POST", "/v1/probes", "SetProbes"),
    _editing("GET", "/v1/lanes", "ListLanes"),
    _editing("POST", "/v1/lanes/{lane}:compact", "CompactLane", bound="lane", collection="lanes/"),
    _catalog("/v1/shaped-answers", "ShapedAnswers"),
    _log("/v1/log/head", "GetHead"),
    _log("/v1/log/entries", "ListEntries"),
    _log("/v1/replicas", "ListReplicas"),
)
"""Every method of the editing service, and those of the others that are forwarded as unary."""

EVENTS = _catalog("/v1/events", "WatchEvents")
"""Its messages are server-sent events."""


def request_of(
    route: RestRoute,
    body: bytes,
    query: Iterable[tuple[str, str]],
    path_params: Mapping[str, str],
    request_id: str,
) -> Message:
    """The RPC's request.

    Args:
        route: that was asked.
        body: of a POST; an empty one has no fields.
        query: of a GET.
        path_params: the path's parameter.
        request_id: for a request that has none; empty makes one.

    Raises:
        InvalidRequestError: not JSON, an unknown field, or a value of another type; or as
            `check_request`.
        LimitExceededError: as `check_request`.
    """
    kind = GetMessageClass(route.rpc.input_type)
    values = _from_body(body) if route.verb == "POST" else _from_query(route, query)
    for name in path_params.values():
        values[route.bound] = route.collection + name
    if route.is_idempotent_by_id and not values.get("request_id", values.get("requestId")):
        values["request_id"] = request_id or str(uuid.uuid4())
    try:
        message: Message = json_format.ParseDict(values, kind())
    except (json_format.ParseError, ValueError, TypeError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise InvalidRequestError(
            f"the request is no {route.rpc.input_type.name}: {first}; see /docs."
        ) from error
    check_request(message)
    return message


def _from_body(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidRequestError("the body is not a JSON object; send one.")
    return found


def _from_query(route: RestRoute, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The query's parameters; one that is repeated, or whose field is, makes a list."""
    fields = route.rpc.input_type.fields_by_name
    found: dict[str, Any] = {}
    for name, value in query:
        if name in fields and fields[name].is_repeated:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise InvalidRequestError(f"{name} is given twice; give it once.", field=name)
        elif name in fields and fields[name].type == FieldDescriptor.TYPE_BOOL:
            found[name] = _BOOLS.get(value, value)
        else:
            found[name] = value
    return found


def request_id_of(message: Message) -> str:
    """The request id of a request that has one; else empty."""
    return str(getattr(message, "request_id", ""))


def body_of(response: Message) -> dict[str, Any]:
    """A response as JSON; log entries have their payload decoded, too, as `content`."""
    found = _as_dict(response)
    if isinstance(response, edit_log_pb2.ListEntriesResponse):
        for entry, shown in zip(response.entries, found["entries"], strict=True):
            try:
                shown["content"] = _as_dict(edit_log_pb2.EntryPayload.FromString(entry.payload))
            except (DecodeError, json_format.Error, TypeError, ValueError):
                continue  # of a newer release, or an impossible entry; the payload itself is there
    return found


def events_of(response: Message) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of each event of a stream's message."""
    return [(each["name"], each) for each in _as_dict(response)["events"]]


def _as_dict(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return made
