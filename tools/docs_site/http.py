"""The page of the HTTP API, from the gateway's OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tools.docs_site.protos import anchor, files
from tools.docs_site.text import cell, document, table

from errata.gateway.http.openapi_convert import document as openapi

_INTRODUCTION = """# HTTP API

Made from the OpenAPI document that the gateway serves at `/openapi.json`; its `/docs` shows the
same. How to use it: [HTTP](../http.md)."""


def page() -> str:
    """The page as Markdown."""
    made = openapi()
    parts, last = [_INTRODUCTION], ""
    for path, verbs in made["paths"].items():
        for verb, operation in verbs.items():
            tag = operation["tags"][0]
            if tag != last:
                parts.append(f"## {tag.capitalize()}")
                last = tag
            parts += [f"### `{verb.upper()} {path}`", operation["summary"]]
            parts.append(table(("", "type", "what"), _rows(operation)))
    parts.append("## Bodies")
    for name, schema in sorted(made["components"]["schemas"].items()):
        if name not in _messages():
            parts += [f"### {name} {{ #{name.lower()} }}", cell(schema.get("description", ""))]
            fields = schema.get("properties", {}).items()
            rows = ((f"`{n}`", _type(s), cell(s.get("description", ""))) for n, s in fields)
            parts.append(table(("field", "type", "what"), rows))
    return document(*parts)


def _rows(operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for parameter in operation.get("parameters", ()):
        kind = f"{parameter['in']}, {_type(parameter['schema'])}"
        yield f"`{parameter['name']}`", kind, cell(parameter.get("description", ""))
    if "requestBody" in operation:
        yield "body", _type(_schema(operation["requestBody"]["content"])), ""
    if content := operation["responses"]["200"].get("content"):
        yield "answer", _type(_schema(content)), ""


def _schema(content: Mapping[str, Any]) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = content["application/json"]["schema"]
    return schema


def _messages() -> dict[str, str]:
    """The page of each message of the protos, by the message's short name."""
    return {name: page for page, file in files().items() for name in _names(file)}


def _names(file: Any) -> Iterator[str]:
    for message in file.message_types_by_name.values():
        yield message.name
        yield from (inner.name for inner in message.nested_types)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        page = _messages().get(name)
        return f"[{name}](grpc/{page}.md#{anchor(name)})" if page else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
