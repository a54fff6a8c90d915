"""A page for people, made from the OpenAPI document; it loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em;border-radius:.2em}"
    "table{border-collapse:collapse;width:100%}"
    "td{border-top:1px solid #8884;padding:.3rem .5rem;vertical-align:top}"
    "summary{cursor:pointer;padding:.4rem 0}section{margin:0 0 2rem}"
    ":root{color-scheme:light dark}"
)


def page(document: Mapping[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    return "".join(
        (
            "<!doctype html><html lang=en><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width'>",
            f"<title>{escape(info['title'])} HTTP API</title><style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f"<p>{escape(info['description'])} For programs: ",
            "<a href=openapi.json>openapi.json</a>.</p>",
            *_operations(document),
            "<h2>Messages</h2>",
            *(
                _schema(name, schema)
                for name, schema in sorted(document["components"]["schemas"].items())
            ),
            "</html>",
        )
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    last = ""
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            tag = operation["tags"][0]
            if tag != last:
                yield f"<h2>{escape(tag.capitalize())}</h2>"
                last = tag
            yield f"<section><h3><code>{verb.upper()} {escape(path)}</code></h3>"
            yield f"<p>{escape(operation['summary'])}</p><table>"
            for parameter in operation.get("parameters", ()):
                kind = f"{parameter['in']}, {_type(parameter['schema'])}"
                yield _row(escape(parameter["name"]), kind, parameter.get("description", ""))
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                yield _row("body", _type(schema), "")
            answer = operation["responses"]["200"].get("content")
            if answer:
                yield _row("answer", _type(answer["application/json"]["schema"]), "")
            yield "</table></section>"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    rows = "".join(
        _row(escape(field), _type(value), value.get("description", ""))
        for field, value in schema.get("properties", {}).items()
    )
    return (
        f"<details id='{escape(name)}' open><summary><code>{escape(name)}</code> "
        f"{escape(schema.get('description', ''))}</summary><table>{rows}</table></details>"
    )


def _row(name: str, kind: str, text: str) -> str:
    return f"<tr><td><code>{name}</code><td>{kind}<td>{escape(text)}"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(escape(str(value)) for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    return escape(" or ".join(kind) if isinstance(kind, list) else str(kind))
