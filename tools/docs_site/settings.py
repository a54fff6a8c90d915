"""The page of the settings: name, environment variable, type, default and meaning of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.docs_site.text import cell, document, table

from errata.platform.settings import Settings
from errata.platform.settings.report import variable_of
from errata.platform.settings.root import sections

_INTRODUCTION = """# Settings

Made from the settings' declarations; `errata config` prints them with the values in force. Where
values come from, and which source wins: [operations](../operations.md#settings)."""
_HEADER = ("setting", "type", "default", "what")
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page() -> str:
    """The page as Markdown."""
    schema = Settings.model_json_schema()
    defaults = Settings.model_construct()
    top = [name for name in Settings.model_fields if name not in sections()]
    parts = [
        _INTRODUCTION,
        "## Of all services",
        table(_HEADER, _rows("", {name: schema["properties"][name] for name in top}, defaults)),
    ]
    for name, kind in sections().items():
        properties = schema["$defs"][kind.__name__]["properties"]
        parts += [
            f"## {name}",
            (kind.__doc__ or "").partition("\n\n")[0],
            table(_HEADER, _rows(name, properties, getattr(defaults, name))),
        ]
    return document(*parts)


def _rows(section: str, properties: Mapping[str, Any], defaults: Any) -> Iterator[tuple[str, ...]]:
    for name, schema in properties.items():
        dotted = f"{section}.{name}" if section else name
        names = f"`{dotted}`<br>`{variable_of(dotted)}`"
        text = schema.get("description", "")
        yield names, _type(schema), _default(getattr(defaults, name)), cell(text)


def _type(schema: Mapping[str, Any]) -> str:
    """The type with its bounds, in words."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = {"string": "text", "object": "table", "boolean": "true or false", "null": "unset"}.get(
        schema["type"], schema["type"]
    )
    if schema.get("format") == "path":
        kind = "path"
    bounds = (f"{sign} {schema[key]:,}" for key, sign in _BOUNDS.items() if key in schema)
    return ", ".join([kind, *bounds])


def _default(value: object) -> str:
    """As one writes it in the environment; nothing if unset or empty."""
    if value is None or value in ("", {}):
        return ""
    if isinstance(value, Path):
        value = str(value).replace(str(Path.home()), "~", 1)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
