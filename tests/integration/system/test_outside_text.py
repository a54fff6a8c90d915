"""Texts from outside that are in the log of a running system do not disturb those who read it."""

from __future__ import annotations

import json

import pytest

from errata.demo import Corpus
from errata_client import Client, EditSpec, EditState
from tests.command_line import run_here
from tests.integration.system.conftest import System
from tests.unit.outside_text import obeyed

_COMMENT = "[/] \x1b[1A\x1b[2K \u2028\n9  12:00:00  committed"


_PROMPT = "The [bold]colour[/x] of \u202eRuritania's flag is"
_SOURCE = "[link=https://example.org]\u200b"
_AUTHOR = "bob [/ops]"


@pytest.fixture(scope="module")
def requested(system: System) -> str:
    """The name of an edit with hostile texts, whatever became of it."""
    with Client(system.target, timeout=120) as client:
        edit = EditSpec(_PROMPT, "green", subject="Ruritania", source=_SOURCE)
        (submitted,) = client.submit_edits([edit], author=_AUTHOR)
        (known,) = client.wait_edits([submitted.name])
        if known.state is EditState.COMMITTED:
            client.revert([known.name], author=_AUTHOR)
    return submitted.name


@pytest.fixture(scope="module")
def reverted(system: System, corpus: Corpus) -> str:
    """The name of an edit that was reverted with a hostile comment."""
    fact = corpus.demo_edits()[1]
    with Client(system.target, timeout=120) as client:
        edit = client.edit(fact.prompt, fact.target, subject=fact.subject, lane="lanes/facts")
        client.revert([edit.name], comment=_COMMENT, author=_AUTHOR)
    return edit.name


def test_such_texts_are_shown_and_change_no_exit_code(
    system: System, requested: str, reverted: str
) -> None:
    said = {}
    for command in ("edits", "log", "status", "lanes"):
        done = run_here([command, "--target", system.target], {"COLUMNS": "500"})
        assert done.returncode == 0, done.stderr
        assert not obeyed(done.stdout), command
        said[command] = done.stdout.splitlines()
    (line,) = [line for line in said["edits"] if f"{requested} " in line]
    assert r"The [bold]colour[/x] of \u202eRuritania's flag is → green" in line
    line = [line for line in said["log"] if f"{reverted} " in line][-1]
    assert r"[/] \x1b[1A\x1b[2K \u2028\n9  12:00:00  committed" in line


def test_json_has_the_texts_as_they_were_sent(
    system: System, requested: str, reverted: str
) -> None:
    done = run_here(["log", "--json", "--target", system.target])
    assert not obeyed(done.stdout)
    entries = [each for each in json.loads(done.stdout) if reverted in each["edits"]]
    assert entries[-1]["detail"] == _COMMENT
    done = run_here(["edits", "--json", "--target", system.target])
    assert not obeyed(done.stdout)
    (edit,) = [each for each in json.loads(done.stdout) if each["name"] == requested]
    assert (edit["spec"]["prompt"], edit["spec"]["source"]) == (_PROMPT, _SOURCE)
