"""Pages of the wire contract: services, RPCs, messages and enums with their comments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
)
from tools.docs_site.staging import ROOT
from tools.docs_site.text import cell, document, table

_COMMENTS = ROOT / "services/errata/gateway/http/proto_comments.json"
_TYPES = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


@cache
def files() -> dict[str, FileDescriptor]:
    """The proto files, by name."""
    names = sorted(path.stem for path in (ROOT / "protos/errata/v1").glob("*.proto"))
    home = "errata_client._gen.errata.v1"
    return {name: import_module(f"{home}.{name}_pb2").DESCRIPTOR for name in names}


@cache
def comments() -> dict[str, str]:
    """The protos' comments, by full name."""
    found: dict[str, str] = json.loads(_COMMENTS.read_text(encoding="utf-8"))
    return found


def pages() -> dict[str, str]:
    """A page for each proto file, as Markdown."""
    return {name: _page(name, file) for name, file in files().items()}


def anchor(full_name: str) -> str:
    """The anchor of a message, enum or service on its page."""
    return full_name.removeprefix("errata.v1.").replace(".", "-").lower()


def reference_to(kind: Descriptor | EnumDescriptor) -> str:
    """A link to a message or enum from another page of the wire contract."""
    name = kind.full_name.removeprefix("errata.v1.")
    page = kind.file.name.rpartition("/")[2].removesuffix(".proto")
    return f"[{name}]({page}.md#{anchor(name)})" if page in files() else f"`{kind.full_name}`"


def _page(name: str, file: FileDescriptor) -> str:
    source = f"../../../protos/errata/v1/{name}.proto"
    title = source.rpartition("/")[2]
    parts = [f"# gRPC: {title}", "Made from the protos and their comments. Package `errata.v1`."]
    for service in file.services_by_name.values():
        parts += [_heading(service.full_name), comments().get(service.full_name, "")]
        rows = (_method(method) for method in service.methods)
        parts.append(table(("RPC", "request", "response", "what"), rows))
    for message in file.message_types_by_name.values():
        parts += _message(message)
    for enum in file.enum_types_by_name.values():
        parts += _enum(enum)
    return document(*parts)


def _heading(full_name: str) -> str:
    return f"## {full_name.removeprefix('errata.v1.')} {{ #{anchor(full_name)} }}"


def _method(method: MethodDescriptor) -> tuple[str, ...]:
    stream = ["stream of " if flag else "" for flag in _streams(method)]
    text = cell(comments().get(method.full_name, ""))
    request, response = (reference_to(kind) for kind in (method.input_type, method.output_type))
    return f"`{method.name}`", stream[0] + request, stream[1] + response, text


def _streams(method: MethodDescriptor) -> tuple[bool, bool]:
    return method.client_streaming, method.server_streaming


def _message(message: Descriptor) -> Iterator[str]:
    if message.GetOptions().map_entry:
        return
    yield _heading(message.full_name)
    yield comments().get(message.full_name, "")
    rows = (
        (
            f"`{field.name}`",
            str(field.number),
            _kind(field),
            cell(comments().get(field.full_name, "")),
        )
        for field in message.fields
    )
    yield table(("field", "number", "type", "what"), rows)
    for inner in message.nested_types:
        yield from _message(inner)
    for enum in message.enum_types:
        yield from _enum(enum)


def _kind(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (message.fields_by_name[name] for name in ("key", "value"))
        return f"map from {_kind(key)} to {_kind(value)}"
    other = message or field.enum_type
    kind = reference_to(other) if other is not None else _TYPES[field.type]
    if field.containing_oneof is not None and not _is_optional(field):
        return f"{kind}, one of `{field.containing_oneof.name}`"
    if _is_optional(field):
        return f"optional {kind}"
    return f"list of {kind}" if field.is_repeated else kind


def _is_optional(field: FieldDescriptor) -> bool:
    """Whether it is `optional`, for which protobuf makes a oneof of its own."""
    oneof = field.containing_oneof
    return oneof is not None and oneof.name == f"_{field.name}"


def _enum(enum: EnumDescriptor) -> Iterator[str]:
    yield _heading(enum.full_name)
    yield comments().get(enum.full_name, "")
    prefix = enum.full_name.rpartition(".")[0]
    rows = (
        (f"`{value.name}`", str(value.number), cell(_value_comment(enum, prefix, value.name)))
        for value in enum.values
    )
    yield table(("value", "number", "what"), rows)


def _value_comment(enum: EnumDescriptor, prefix: str, name: str) -> str:
    """protobuf's full names of values lack the enum's name; those of the comments have it."""
    return comments().get(f"{enum.full_name}.{name}") or comments().get(f"{prefix}.{name}", "")
