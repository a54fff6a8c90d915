"""The generated pages are complete: whatever the code has is on a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tools.docs_site import cli, errors, http, protos, sdk, settings
from tools.docs_site.text import cell

import errata_client
from errata.cli import app
from errata.gateway.http.openapi_convert import document
from errata.platform.settings.report import descriptions, variable_of
from errata_client.errors import known_reasons


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")


def test_every_command_and_option_is_on_its_page() -> None:
    page = cli.page()
    parts = dict(re.findall(r"^## `([\w -]+)`.*?\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    commands = dict(_commands(typer.main.get_command(app), "errata"))
    assert parts.keys() == commands.keys()
    assert len(commands) > 40
    for path, command in commands.items():
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in parts[path], f"{path} {option}"


def test_every_setting_is_on_its_page_with_its_meaning() -> None:
    page = settings.page()
    for name, text in descriptions().items():
        row = re.search(rf"^\| `{re.escape(name)}`<br>`{variable_of(name)}` \|.*$", page, re.M)
        assert row is not None, name
        assert cell(text) in row[0]
    assert "| `worker.max_queue`<br>`ERRATA_WORKER__MAX_QUEUE` | integer, ≥ 1 | `256` |" in page


def test_every_rpc_message_field_and_value_is_on_its_page() -> None:
    pages = protos.pages()
    assert pages.keys() == {"catalog", "edit_log", "editing", "inference", "retrieval", "types"}
    for name, file in protos.files().items():
        for service in file.services_by_name.values():
            assert all(f"| `{method.name}` |" in pages[name] for method in service.methods)
        for message in file.message_types_by_name.values():
            for field in message.fields:
                assert re.search(rf"^\| `{field.name}` \| {field.number} \|", pages[name], re.M)
        for enum in file.enum_types_by_name.values():
            assert all(f"| `{value.name}` |" in pages[name] for value in enum.values)
    assert "Accepts edits; durable in the log before the response." in pages["editing"]
    assert "map from string to" in "".join(pages.values())


def test_every_route_is_on_its_page() -> None:
    page = http.page()
    for path, verbs in document()["paths"].items():
        assert all(f"### `{verb.upper()} {path}`" in page for verb in verbs)


def test_every_reason_is_on_its_page() -> None:
    page = errors.page()
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.M)) >= known_reasons()
    assert "| `QUEUE_FULL` | `RESOURCE_EXHAUSTED` | 429 | `QueueFullError` | may succeed |" in page


def test_every_public_name_of_the_sdk_is_on_its_page() -> None:
    page = sdk.page()
    for name in errata_client.__all__:
        assert f"\n## {name} {{" in page, name
    assert "### Client.submit_edits { #client-submit_edits }" in page
    assert "| `request_id` | a UUID for retries; a new one if None. |" in page
    assert re.search(r"\| `EditRejectedError` \| it could not be fitted", page)


@pytest.mark.parametrize("make", [cli.page, settings.page, http.page, errors.page, sdk.page])
def test_pages_do_not_depend_on_the_machine(make: Any) -> None:
    assert str(Path.home()) not in make()


def test_a_cell_is_one_line_without_markup() -> None:
    assert cell("a|b\n <c> *d* `e_f|g*`") == "a\\|b &lt;c> \\*d\\* `e_f\\|g*`"
