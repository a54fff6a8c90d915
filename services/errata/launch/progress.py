"""Shows what a command waits for, and for how long: moving on a terminal, else in plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from errata.launch.output import line, quoted
from errata.platform.countdown import EVERY_SECONDS, Countdown


class Steps:
    """Shows work that takes a while; without a console it shows nothing.

    On a terminal, a line with a spinner and the seconds disappears when the work is done. Elsewhere
    the line `waiting for … 10 s` is printed every few seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        report_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares.

        Args:
            console: where to show progress; None shows nothing.
            report_seconds: between two plain lines.
            clock: gives seconds.
        """
        self._console = console
        self._report_seconds = report_seconds
        self._clock = clock

    @contextmanager
    def starting(self, name: str) -> Iterator[None]:
        """Shows a start: one line before it and, unless it fails, one after it."""
        if self._console is None:
            yield
            return
        begun = self._clock()
        if not self._console.is_terminal:
            self.say(f"starting {name} …")
        with self._shown(f"starting {name} …", f"waiting for {name} …", begun):
            yield
        self.say(f"{name} is up after {self._clock() - begun:.1f} s")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows other work; prints nothing if it does not take long."""
        if self._console is None:
            yield
            return
        with self._shown(f"{what} …", f"{what} …", self._clock()):
            yield

    @contextmanager
    def _shown(self, spinning: str, waiting: str, begun: float) -> Iterator[None]:
        assert self._console is not None
        if self._console.is_terminal:
            columns = (SpinnerColumn(), _Description(), TimeElapsedColumn())
            with Progress(*columns, console=self._console, transient=True) as progress:
                progress.add_task(spinning, total=None)
                yield
            return
        done = threading.Event()

        def report() -> None:
            while not done.wait(self._report_seconds):
                self.say(f"{waiting} {self._clock() - begun:.0f} s")

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            done.set()
            reporter.join()

    def say(self, text: str) -> None:
        """Shows plain text of one or more lines."""
        if self._console is not None:
            self._console.print(quoted(text), soft_wrap=True)


def bars(console: Console | None, *, transient: bool = False) -> Progress:
    """Bars with done and total, and with the time that has passed and that is left.

    Args:
        console: where to show them; None shows nothing.
        transient: whether they disappear at the end.
    """
    return Progress(
        _Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=console is None,
        transient=transient,
    )


@contextmanager
def counting(console: Console, what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows work whose size is known, by a function that takes (done, total).

    On a terminal, a bar disappears when the work is done. Elsewhere, the line `…: 200 of 1,000
    tokens, 40 s left` is printed every few seconds.
    """
    if not console.is_terminal:
        yield Countdown(
            lambda done, total, left: _print(
                console, f"{what}: {done:,} of {total:,} {unit}, {left:.0f} s left"
            )
        )
        return
    with bars(console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Description(ProgressColumn):
    """What a bar is about, as plain text."""

    def render(self, task: Task) -> Text:
        return line(task.description)


def _print(console: Console, text: str) -> None:
    console.print(line(text), soft_wrap=True)
