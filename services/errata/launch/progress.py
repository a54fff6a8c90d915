"""Shows what a command waits for, and for how long: a spinner on a terminal, else plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_REPORT_SECONDS = 5.0


class Steps:
    """Shows work that takes a while; without a console it shows nothing.

    On a terminal, a line with a spinner and the seconds disappears when the work is done. Elsewhere
    the line `waiting for … 10 s` is printed every few seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        report_seconds: float = _REPORT_SECONDS,
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
            self._line(f"starting {name} …")
        with self._shown(f"starting {name} …", f"waiting for {name} …", begun):
            yield
        self._line(f"{name} is up after {self._clock() - begun:.1f} s")

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
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Progress(*columns, console=self._console, transient=True) as progress:
                progress.add_task(spinning, total=None)
                yield
            return
        done = threading.Event()

        def report() -> None:
            while not done.wait(self._report_seconds):
                self._line(f"{waiting} {self._clock() - begun:.0f} s")

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            done.set()
            reporter.join()

    def _line(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
