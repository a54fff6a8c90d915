"""The page of the Python SDK: its public names with their signatures and docstrings."""

from __future__ import annotations

from collections.abc import Iterator

import griffe
from tools.docs_site.staging import ROOT
from tools.docs_site.text import cell, document, table

import errata_client

_INTRODUCTION = """# Python SDK

Made from the docstrings of `errata_client`. `AsyncClient` has the methods of `Client` as coroutines
and asynchronous iterators."""


def page() -> str:
    """The page as Markdown."""
    package = griffe.load(
        "errata_client",
        search_paths=[str(ROOT / "clients/python")],
        docstring_parser="google",
        allow_inspection=False,
    )
    parts = [_INTRODUCTION]
    for name in errata_client.__all__:
        item = package[name].final_target if package[name].is_alias else package[name]
        parts += _item(name, item)
    return document(*parts)


def _item(name: str, item: griffe.Object | griffe.Alias) -> Iterator[str]:
    yield f"## {name} {{ #{name.lower()} }}"
    if isinstance(item, griffe.Attribute):
        yield f"```python\n{name} = {item.value}\n```"
    yield from _docstring(item)
    if not isinstance(item, griffe.Class) or name == "AsyncClient":
        return
    constructor = item.members.get("__init__")
    if isinstance(constructor, griffe.Function):
        yield f"```python\n{_signature(constructor, name)}\n```"
        yield from _docstring(constructor)
    # The client's methods are spread over its bases; those of errors are shown once.
    members = item.all_members if name == "Client" else item.members
    for inner in members.values():
        if inner.name.startswith("_") or not inner.is_function:
            continue
        yield f"### {name}.{inner.name} {{ #{name.lower()}-{inner.name} }}"
        yield f"```python\n{_signature(inner, inner.name)}\n```"
        yield from _docstring(inner)


def _signature(function: griffe.Function, name: str) -> str:
    """The signature without `self`, a parameter on each line if it is long."""
    shown = list[str]()
    for parameter in list(function.parameters)[1:]:
        keyword_only = parameter.kind is griffe.ParameterKind.keyword_only
        if keyword_only and not any(text == "*" for text in shown):
            shown.append("*")
        text = parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None:
            text += f" = {parameter.default}"
        shown.append(text)
    answer = f" -> {function.returns}" if function.returns is not None else ""
    line = f"{name}({', '.join(shown)}){answer}"
    if len(line) <= 88:
        return line
    inside = "".join(f"    {text},\n" for text in shown)
    return f"{name}(\n{inside}){answer}"


def _docstring(item: griffe.Object | griffe.Alias) -> Iterator[str]:
    if item.docstring is None:
        return
    for section in item.docstring.parsed:
        if isinstance(section, griffe.DocstringSectionText):
            yield section.value.replace("<", "&lt;")
        elif isinstance(section, griffe.DocstringSectionExamples):
            yield "".join(f"```python\n{text}\n```" for _, text in section.value)
        elif isinstance(section.value, list):
            title = section.kind.value.replace("parameters", "arguments")
            rows = ((_name(each), cell(each.description)) for each in section.value)
            yield table((title, "what"), rows)


def _name(element: griffe.DocstringElement) -> str:
    """What a row of a section is about: a parameter's name, or the class of an exception."""
    name = getattr(element, "name", "") or str(element.annotation or "")
    return f"`{name}`" if name else ""
