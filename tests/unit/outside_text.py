"""Texts as someone outside may choose them, and a server that puts one into all that it says."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from errata_client._gen.errata.v1 import catalog_pb2, edit_log_pb2, editing_pb2, inference_pb2

FRAGMENTS = (
    *("[/bold]", "[/]", "[red]", "[link=https://example.org]", "[", "\\", "\\[", ":smile:"),
    *(
        "\x1b[2J",
        "\x1b]8;;https://example.org\x1b\\",
        "\x1b]52;c;YQ==\x07",
        "\x9b31m",
        "\x7f",
        "\0",
    ),
    *("\n", "\r", "\r\n", "\t", "\v", "\f", "\x85", "\u2028", "\u2029", "\b"),
    *("\u202e", "\u2066", "\u2069", "\u200b", "\u200d", "\u2060", "\u00ad", "\ufeff"),
    *("\U000e0041", "\ufe0f", "\U000e0100", "\u3164", "\ue000", "\ud800", "\udfff"),
    *("│", "漢字", "e\u0301", "\u00a0", "“", "|", "$(reboot)", "%s", "{0}"),
)
TEXTS = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(codec=None), max_size=5), max_size=6
).map("".join)
WORST = "".join(FRAGMENTS)
WORST_ON_WIRE = "".join(part for part in FRAGMENTS if unicodedata.category(part[0]) != "Cs")

_SERVICES = {
    name: service
    for module in (catalog_pb2, edit_log_pb2, editing_pb2, inference_pb2)
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
_DIGESTS = ("digest", "chain_digest", "log_id")


def obeyed(output: str) -> set[str]:
    """The characters of an output that a terminal obeys or does not show."""
    return {
        char
        for char in output
        if char != "\n"
        and (
            unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
            or char in "\ufe0f\u3164\U000e0100"
        )
    }


@contextmanager
def server_that_says(text: str, *, fails: bool = False) -> Iterator[str]:
    """A server that answers every call with messages whose strings are all `text`.

    Args:
        text: what it says.
        fails: whether it says it in errors.

    Yields:
        Its address.
    """
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([_Handler(text, fails)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, text: str, fails: bool) -> None:
        self._text, self._fails = text, fails

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        service, name = details.method.rsplit("/", 1)
        method = _SERVICES[service.rpartition(".")[2]].methods_by_name[name]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self._fails:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, self._text)
            made: Message = method.output_type._concrete_class()
            fill(made, self._text)
            return made.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


def fill(message: Message, text: str) -> None:
    """Sets every field of a message, with one element in each list and map."""
    if isinstance(message, Timestamp):
        message.GetCurrentTime()
        return
    for field in message.DESCRIPTOR.fields:
        inside = field.message_type
        if field.name in ("next_page_token", "details") or (
            field.containing_oneof and len(field.containing_oneof.fields) > 1
        ):
            continue  # pages would never end; oneofs are set below
        if inside is not None and inside.GetOptions().map_entry:
            _fill_map(message, field, text)
        elif inside is not None:
            held = getattr(message, field.name)
            fill(held.add() if field.is_repeated else held, text)
        else:
            value = _value(field, text)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


def _fill_map(message: Message, field: FieldDescriptor, text: str) -> None:
    held: Any = getattr(message, field.name)
    value = field.message_type.fields_by_name["value"]
    if value.message_type is None:
        held[text] = _value(value, text)
    else:
        fill(held[text], text)


def _value(field: FieldDescriptor, text: str) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        is_digest = field.name.endswith(_DIGESTS)
        return text * 3 if is_digest else text
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _payload(text) if field.name == "payload" else bytes(32)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return 3
    return True if field.type == FieldDescriptor.TYPE_BOOL else 1


def _payload(text: str) -> bytes:
    reverted = edit_log_pb2.EditsReverted(edits=[text], comment=text)
    return edit_log_pb2.EntryPayload(author=text, edits_reverted=reverted).SerializeToString()
