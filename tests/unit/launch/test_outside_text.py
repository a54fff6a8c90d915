"""No text from outside changes the structure of an output, hides text or changes an exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from rich.cells import cell_len
from rich.console import Console, RenderableType

from errata.launch import show, show_policy
from errata.launch.findings import Finding
from errata.launch.output import TextTable, print_json
from errata.launch.show_installation import doctor_table
from errata.launch.terminal import PlainConsole
from errata.platform.plain import shown
from errata_client import (
    Answer,
    AnswerChange,
    Chat,
    ChatMessage,
    Conflict,
    Decision,
    Edit,
    EditSpec,
    EditState,
    Head,
    Lane,
    LogEntry,
    Preview,
    ProbeSet,
    Provenance,
    Replica,
    ReplicaAnswer,
    Reversal,
    Review,
)
from tests.command_line import Done, run_here
from tests.unit.outside_text import TEXTS, WORST, WORST_ON_WIRE, obeyed, server_that_says

_NOW = datetime.now(UTC)
_DIGEST = "ab" * 32
_HEAD = Head("log", 7, _DIGEST, 0, 1)


def _edit(text: str, chat: bool = False) -> Edit:
    prompt = Chat((ChatMessage("system", text), ChatMessage(text, text))) if chat else text
    return Edit(
        name=f"edits/{text}",
        state=EditState.COMMITTED,
        spec=EditSpec(prompt, text, subject=text, source=text),
        lane=f"lanes/{text}",
        author=text,
        request_time=_NOW,
        commit_seq=9,
        revert_seq=0,
        figures=None,
        artifact_digest="",
        artifact_size=0,
        method=text,
        base_model_digest="",
        error="",
        superseded_by=text,
        subject_found=True,
        conflicts=(_conflict(text),),
        review=Review(8, text, text, _NOW),
    )


def _conflict(text: str) -> Conflict:
    return Conflict("repeats", text, text, EditState.PROPOSED, text, text)


def _preview(text: str) -> Preview:
    chat = Chat((ChatMessage(text, text),))
    changes = (AnswerChange(text, text, text, True), AnswerChange(chat, text, None, False))
    spec = EditSpec(text, text)
    known = (changes, changes, 7, 2, changes, (_conflict(text),))
    return Preview(spec, text, 8, None, text, text, *known)


def _lane(text: str) -> Lane:
    config = json.dumps({f"a key as wide as the title {text}": text})
    sizes = {text: 5}
    return Lane(text, "elder", config, "", "", 3, True, text, sizes, (f"warned: {text}",))


def _replica(text: str) -> Replica:
    return Replica(text, text, 7, 0, _DIGEST, _DIGEST, True, _NOW, {text: {text: 5}})


def _answer(text: str) -> Answer:
    return Answer(text, "stop", 1, 1, Provenance(7, _DIGEST, _DIGEST, text, (text,), 1))


def _table(text: str) -> TextTable:
    table = TextTable("name", title=f"of {text}")
    table.add_row(text)
    return table


_OUTPUTS: Mapping[str, Callable[[str], RenderableType]] = {
    "a string": lambda text: f"file {text} is written",
    "a table": _table,
    "an edit": lambda text: show.edit_lines(_edit(text)),
    "an edit of a chat": lambda text: show.edit_lines(_edit(text, chat=True)),
    "edits": lambda text: show.edit_list([_edit(text), _edit(text, chat=True)]),
    "status": lambda text: show.status_lines(_HEAD, [_replica(text)], {text: 4}, [_lane(text)]),
    "lanes": lambda text: show.lane_table([_lane(text)]),
    "a lane": lambda text: show.lane_config_table(_lane(text)),
    "log": lambda text: show.entry_table(
        [LogEntry(3, f"k{text}", text, _NOW, _DIGEST, (text,), text)]
    ),
    "answers": lambda text: show.everywhere_table(
        text,
        [ReplicaAnswer(text, _answer(f"a{text}z"), ""), ReplicaAnswer(text, None, text)],
    ),
    "a reversal": lambda text: show.reversal_lines(Reversal(8, (text,))),
    "a preview": lambda text: show_policy.preview_lines(_preview(text)),
    "a decision": lambda text: show_policy.decision_lines(Decision(8, (_edit(text),))),
    "a probe set": lambda text: show_policy.probe_table(ProbeSet(8, (text,))),
    "findings": lambda text: doctor_table([Finding("ok", text, text, text)]),
}


def _printed(renderable: RenderableType, console: type[Console] = PlainConsole) -> str:
    out = io.StringIO()
    console(file=out, width=20_000).print(renderable)
    return out.getvalue()


def _harmless(text: str) -> str:
    """Letters that take as much room."""
    return "x" * cell_len(shown(text))


def _borders(output: str) -> list[str]:
    return [line for line in output.split("\n") if line[:1] in ("┏", "┡", "├", "└")]


@pytest.mark.parametrize("name", _OUTPUTS)
@given(text=TEXTS)
def test_an_output_has_the_same_structure_as_with_letters(name: str, text: str) -> None:
    said, usual = _printed(_OUTPUTS[name](text)), _printed(_OUTPUTS[name](_harmless(text)))
    assert not obeyed(said)
    assert said.count("\n") == usual.count("\n")
    if text == json.dumps(text)[1:-1] == repr(text)[1:-1]:  # some outputs hold one or the other
        assert _borders(said) == _borders(usual)
        assert [cell_len(line) for line in said.split("\n")] == [
            cell_len(line) for line in usual.split("\n")
        ]


@given(text=TEXTS)
def test_lines_of_an_answer_are_told_from_the_commands_own(text: str) -> None:
    said = _printed(show.answer_lines("Who?", _answer(text)))
    assert not obeyed(said)
    lines = said.removesuffix("\n").split("\n")
    assert len(lines) == 3 + text.count("\n")
    assert lines[0].startswith("Who?")
    assert all(line.startswith("│ ") for line in lines[1:-2])
    assert lines[-1].startswith("  shaped by: ")


def test_tables_are_plain_on_any_console() -> None:
    """Someone may print one on a console of rich's own, which reads markup."""
    said = _printed(show.edit_list([_edit(WORST)]), Console)
    assert not obeyed(said)
    assert "[/bold][/][red][link=https://example.org]" in said


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@given(text=TEXTS)
def test_json_has_the_same_strings_in_every_encoding(encoding: str, text: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    print_json(PlainConsole(file=out), {text: [text]})
    out.flush()
    said = raw.getvalue().decode(encoding)
    assert not obeyed(said)
    assert json.loads(said) == json.loads(json.dumps({text: [text]}))


_COMMANDS = (
    ("edits",),
    ("log",),
    ("status",),
    ("lanes",),
    ("ask", "Who?"),
    ("ask", "Who?", "--chat", "--everywhere"),
    ("score", "Who?", "me"),
    ("edit", "Who?", "me"),
    ("revert", "edits/1-0"),
    ("approve", "edits/1-0"),
    ("withdraw", "edits/1-0"),
    ("probes", "show"),
)
_TEXTS_OF_LENGTH = ("[/bold] \x1b[2J \u202e", WORST_ON_WIRE)


def _run(text: str, *command: str, fails: bool = False, columns: int = 20_000) -> Done:
    with server_that_says(text, fails=fails) as target:
        return run_here([*command, "--target", target], {"COLUMNS": str(columns)})


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
@pytest.mark.parametrize("text", _TEXTS_OF_LENGTH, ids=["markup", "all"])
def test_a_command_says_the_same_whatever_a_server_says(
    command: tuple[str, ...], text: str
) -> None:
    said, usual = _run(text, *command), _run(_harmless(text), *command)
    assert said.returncode == usual.returncode == 0, said.stderr
    assert not obeyed(said.stdout + said.stderr)
    breaks = text.count("\n") if command == ("ask", "Who?") else 0
    assert said.stdout.count("\n") == usual.stdout.count("\n") + breaks
    assert "[/bold]" in said.stdout


def test_a_lane_is_shown_whatever_it_is_called() -> None:
    for text in ("x", WORST_ON_WIRE):
        for command in (("lanes", text), ("compact", text)):
            done = _run(text, *command)
            assert done.returncode == 0, done.stderr
            assert not obeyed(done.stdout + done.stderr)


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_json_holds_what_a_server_said(command: tuple[str, ...]) -> None:
    done = _run(WORST_ON_WIRE, *command, "--json")
    assert done.returncode == 0, done.stderr
    assert not obeyed(done.stdout)
    assert WORST_ON_WIRE in _strings(json.loads(done.stdout))


def _strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_strings, value), *map(_strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(_strings, value))
    return {value} if isinstance(value, str) else set()


def test_an_error_of_a_service_is_one_message_on_one_line() -> None:
    usual = _run("x", "edits", fails=True)
    for text in _TEXTS_OF_LENGTH:
        done = _run(text, "edits", fails=True)
        assert done.returncode == usual.returncode == 1
        assert not obeyed(done.stderr)
        assert done.stderr.count("\n") == usual.stderr.count("\n") == 1
        assert shown(text) in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_changes_no_exit_code(encoding: str) -> None:
    with server_that_says("東京 [/x] \u202e") as target:
        done = subprocess.run(
            [sys.executable, "-m", "errata.cli", "edits", "--target", target],
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert rb"\u6771\u4eac [/x] \u202e" in done.stdout
