"""Output on terminals."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from errata.launch import show
from errata.launch.show import status_lines
from errata_client import Edit, EditSpec, EditState, Head, Replica


def test_status_shows_the_experts_on_each_replicas_device() -> None:
    sizes = {"lanes/experts": {"experts": 3, "bytes": 4_721_664}}
    replicas = [
        Replica(name, role, 7, 0, "ab" * 32, "cd" * 32, True, datetime.now(UTC), resident)
        for name, role, resident in (
            ("worker-0", "worker", sizes),
            ("retrieval-0", "retrieval", {}),
        )
    ]
    console = Console(file=io.StringIO(), width=200)
    console.print(status_lines(Head("log", 7, "ab" * 32, 0, 1), replicas, {"committed": 4}, []))
    file = console.file
    assert isinstance(file, io.StringIO)
    shown = file.getvalue()
    assert "worker-0, on its device: lanes/experts bytes 4,721,664  experts 3" in shown
    assert "retrieval-0, on its device" not in shown


def test_names_from_outside_are_shown_as_text_not_markup() -> None:
    """Such an author stays in the log: `errata edits` must be able to show it."""
    spec = EditSpec("The [bold]capital[/] is", "[/red]Lyon")
    edit = Edit(
        name="edits/8-0",
        state=EditState.COMMITTED,
        spec=spec,
        lane="lanes/main",
        author="bob [/ops]",
        request_time=datetime.now(UTC),
        commit_seq=9,
        revert_seq=0,
        figures=None,
        artifact_digest="",
        artifact_size=0,
        method="adaple",
        base_model_digest="",
        error="",
        superseded_by="",
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show.edit_list([edit]))
    shown = console.export_text()
    assert "bob [/ops]" in shown
    assert "[bold]capital[/]" in shown
