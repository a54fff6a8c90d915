"""The OpenAPI document, generated from the protos, their comments and the OpenAI bodies."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from errata.gateway.http.openai_requests import ChatBody, CompletionBody
from errata.gateway.http.rest_convert import EVENTS, ROUTES, RestRoute
from errata_client._gen.errata.v1 import inference_pb2

_REFERENCE = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_SCALARS: dict[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: _TEXT,
}
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.rpc.Status": {
        "type": "object",
        "description": "Code, message and details, as in google.rpc.Status.",
    },
}
_ERROR = {
    "type": "object",
    "description": "A failure, in the OpenAI API's form.",
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {**_TEXT, "description": "What is wrong, and the remedy."},
                "type": _TEXT,
                "param": {"type": ["string", "null"], "description": "The field at fault."},
                "code": {**_TEXT, "description": "For programs."},
                "errata": {
                    "type": "object",
                    "description": "Reason and metadata of Errata's own errors.",
                },
            },
        }
    },
}
_SERVER_SENT = {
    "type": "object",
    "description": "Server-sent events: each has an Event as its data, and its name as its id, "
    "which a client sends again as Last-Event-ID to continue.",
}
_NAMESPACE = {
    "name": "Errata-Namespace",
    "in": "header",
    "description": "Namespaces that the request reads, with commas; those of the body count, too.",
    "schema": {"type": "string"},
}
_CANARY_KEY = {
    "name": "Errata-Canary-Key",
    "in": "header",
    "description": "Decides which open canaries the request is in; counts before that of the body.",
    "schema": {"type": "string"},
}
_MIN_SEQ = {
    "name": "X-Errata-Min-Seq",
    "in": "header",
    "description": "Never answer from an older position.",
    "schema": {"type": "integer", "minimum": 0},
}
_TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Seconds that the client waits.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The request id, a UUID, if the body has none; without either, one is made.",
    "schema": _TEXT,
}


@cache
def _comments() -> dict[str, str]:
    text = files("errata.gateway.http").joinpath("proto_comments.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def document() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    provenance = inference_pb2.Provenance.DESCRIPTOR
    _add_message(schemas, provenance)
    paths: dict[str, dict[str, Any]] = _openai_paths(schemas, provenance.name)
    for route in (*ROUTES, EVENTS):
        _add_message(schemas, route.rpc.input_type)
        _add_message(schemas, route.rpc.output_type)
        paths.setdefault(route.path, {})[route.verb.lower()] = _operation(route)
    paths["/health"] = {
        "get": {
            "summary": "Whether the gateway serves.",
            "tags": ["operations"],
            "responses": {"200": {"description": "It does."}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Errata",
            "version": version("errata"),
            "description": "The OpenAI API for inference; editing, the catalog and the edit log as "
            "JSON.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _openai_paths(schemas: dict[str, Any], provenance: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    answer = {
        "type": "object",
        "description": "As in the OpenAI API. A stream has events of the same kind.",
        "properties": {"errata": {"$ref": _REFERENCE.format(model=provenance)}},
    }
    for path, body, summary in (
        ("/v1/chat/completions", ChatBody, "Answers a conversation."),
        ("/v1/completions", CompletionBody, "Continues texts."),
    ):
        schema = body.model_json_schema(ref_template=_REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        made[path] = {
            "post": {
                "summary": summary,
                "tags": ["inference"],
                "parameters": [_MIN_SEQ, _NAMESPACE, _CANARY_KEY, _TIMEOUT],
                "requestBody": _json(_REFERENCE.format(model=body.__name__), required=True),
                "responses": _responses(answer),
            }
        }
    listed = {"type": "object", "description": "As in the OpenAI API."}
    models = {"tags": ["inference"], "responses": _responses(listed)}
    made["/v1/models"] = {"get": {"summary": "The served model, and its aliases.", **models}}
    name = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    made["/v1/models/{model}"] = {
        "get": {"summary": "One of them.", "parameters": [name], **models}
    }
    return made


def _operation(route: RestRoute) -> dict[str, Any]:
    rpc = route.rpc
    parameters: list[dict[str, Any]] = [_TIMEOUT]
    for name in re.findall(r"{(\w+)}", route.path):
        text = _comments().get(f"{rpc.input_type.full_name}.{route.bound}", "")
        parameters.append(
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": f"{text} Here without `{route.collection}`.",
                "schema": _TEXT,
            }
        )
    made: dict[str, Any] = {
        "operationId": rpc.name,
        "summary": _comments().get(rpc.full_name, ""),
        "tags": [route.tag],
        "parameters": parameters,
        "responses": _responses({"$ref": _REFERENCE.format(model=rpc.output_type.name)}),
    }
    if route is EVENTS:
        made["responses"] = _responses(_SERVER_SENT)
    if route.verb == "POST":
        made["requestBody"] = _json(_REFERENCE.format(model=rpc.input_type.name))
        if route.is_idempotent_by_id:
            parameters.append(_IDEMPOTENCY_KEY)
    else:
        parameters += [
            {
                "name": field.name,
                "in": "query",
                "description": _comments().get(field.full_name, ""),
                "schema": _value(field),
            }
            for field in rpc.input_type.fields
            if field.name != route.bound
        ]
    return made


def _json(reference: str, **more: Any) -> dict[str, Any]:
    return {**more, "content": {"application/json": {"schema": {"$ref": reference}}}}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "200": {"description": "Done.", "content": {"application/json": {"schema": schema}}},
        "default": {"description": "Failed.", **_json(_REFERENCE.format(model="Error"))},
    }


def _add_message(schemas: dict[str, Any], message: Descriptor) -> None:
    """Adds a message's schema, and those of the messages inside."""
    if message.name in schemas or message.full_name in _WELL_KNOWN:
        return
    properties: dict[str, Any] = {}
    schemas[message.name] = {
        "type": "object",
        "description": _comments().get(message.full_name, ""),
        "properties": properties,
    }
    for field in message.fields:
        properties[field.name] = {
            **_value(field),
            "description": _comments().get(field.full_name, ""),
        }
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if inner is not None:
            _add_message(schemas, inner)


def _value(field: FieldDescriptor) -> dict[str, Any]:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        value = _one(inner.fields_by_name["value"])
        return {"type": "object", "additionalProperties": value}
    one = _one(field)
    return {"type": "array", "items": one} if field.is_repeated else one


def _one(field: FieldDescriptor) -> dict[str, Any]:
    if field.message_type is not None:
        known = _WELL_KNOWN.get(field.message_type.full_name)
        return known or {"$ref": _REFERENCE.format(model=field.message_type.name)}
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return _SCALARS[field.cpp_type]
