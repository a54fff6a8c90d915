"""Waits are shown: lines in a pipe, a spinner with seconds on a terminal."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from errata.launch.progress import Steps, counting


class _Output(io.StringIO):
    """Text, and an event for each time that something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def write(self, text: str) -> int:
        with self.changed:
            self.changed.notify_all()
            return super().write(text)

    def wait_for(self, text: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: text in self.getvalue(), 30), self.getvalue()


def test_plain_lines_show_what_is_awaited_and_for_how_long() -> None:
    out = _Output()
    steps = Steps(Console(file=out, width=40), report_seconds=0.01)
    with steps.starting("a service with a long name, longer than the console is wide"):
        out.wait_for(
            "waiting for a service with a long name, longer than the console is wide … 0 s"
        )
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("starting a service")
    assert lines[-1].endswith("is up after 0.0 s") or " is up after " in lines[-1]


def test_quick_work_prints_nothing_and_slow_work_does() -> None:
    out = _Output()
    with Steps(Console(file=out), report_seconds=30).doing("checking model"):
        pass
    assert out.getvalue() == ""
    with Steps(Console(file=out), report_seconds=0.01).doing("checking model"):
        out.wait_for("checking model … 0 s")


def test_seconds_are_counted() -> None:
    out = _Output()
    clock = iter([100.0, 112.25]).__next__
    with Steps(Console(file=out), report_seconds=30, clock=clock).starting("writer"):
        pass
    assert out.getvalue().splitlines() == ["starting writer …", "writer is up after 12.2 s"]


def test_a_terminal_gets_a_spinner_that_disappears() -> None:
    out = _Output()
    console = Console(file=out, force_terminal=True, width=60)
    with Steps(console).starting("writer"):
        out.wait_for("0:00:00")
    shown = out.getvalue()
    assert "starting writer …" in shown
    assert "\x1b[2K" in shown, "the line is taken away"
    assert "writer is up after" in shown.rpartition("\x1b[2K")[2]


def test_a_failed_start_is_not_reported_as_up() -> None:
    out = _Output()
    with pytest.raises(ValueError, match="no"):
        with Steps(Console(file=out)).starting("writer"):
            raise ValueError("no")
    assert "is up" not in out.getvalue()


def test_without_a_console_nothing_is_printed() -> None:
    with Steps().starting("writer"), Steps().doing("checking"):
        pass


def test_counted_work_ends_with_a_line_in_a_pipe() -> None:
    out = _Output()
    with counting(Console(file=out, width=20), "statistics of lanes/main", "tokens") as progress:
        for done in (0, 500, 1_000):
            progress(done, 1_000)
    last = "statistics of lanes/main: 1,000 of 1,000 tokens, 0 s left"
    assert out.getvalue().splitlines() == [last]


def test_counted_work_has_a_bar_on_a_terminal() -> None:
    out = _Output()
    with counting(Console(file=out, force_terminal=True, width=80), "lanes/main", "tokens") as bar:
        bar(500, 1_000)
        out.wait_for("500/1000")
    assert "\x1b[2K" in out.getvalue(), "the line is taken away"
