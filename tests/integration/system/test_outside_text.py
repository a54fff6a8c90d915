"""Texts from outside that are in the log of a running system do not disturb those who read it."""

from __future__ import annotations

import json

import pytest

from errata_client import Client
from tests.command_line import run_here
from tests.integration.system.conftest import System
from tests.unit.outside_text import obeyed

_AUTHOR = "bob [/ops] \x1b]0;mine\x07 \u202egnirts\n9  12:00:00  committed"


@pytest.fixture
def named(system: System) -> str:
    """The name of an edit, later reverted, whose every text is hostile."""
    with Client(system.target, timeout=120) as client:
        edit = client.edit(
            "The [bold]capital[/x] of \x1b[2J\u2066 Ruritania is",
            "Strelsau",
            source="[link=https://example.org]\u200b",
            author=_AUTHOR,
        )
        client.revert([edit.name], comment="[/] \x1b[1A\x1b[2K \u2028 no", author=_AUTHOR)
    return edit.name


def test_such_an_edit_is_listed_and_its_author_shown(system: System, named: str) -> None:
    for command in ("edits", "log", "status", "lanes"):
        done = run_here([command, "--target", system.target])
        assert done.returncode == 0, done.stderr
        assert not obeyed(done.stdout), command
    listed = run_here(["edits", "--target", system.target], {"COLUMNS": "500"}).stdout
    (line,) = [line for line in listed.splitlines() if f"{named} " in line]
    assert r"bob [/ops] \x1b]0;mine\x07 \u202egnirts\n9  12:00:00  committed" in line
    assert r"The [bold]capital[/x] of \x1b[2J\u2066 Ruritania is → Strelsau" in line


def test_json_has_the_author_as_he_was_named(system: System, named: str) -> None:
    done = run_here(["edits", "--json", "--target", system.target])
    (edit,) = [each for each in json.loads(done.stdout) if each["name"] == named]
    assert edit["author"] == _AUTHOR
    assert not obeyed(done.stdout)
