"""What is being waited for, and for how long: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_TELL_SECONDS = 5.0


class Steps:
    """Tells of work that takes a while; without a console it tells nothing.

    On a terminal a line with a spinner and the seconds goes away when the work is done. Elsewhere
    the line `waiting for … 10 s` comes every few seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        tell_seconds: float = _TELL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares.

        Args:
            console: where to tell; nowhere if None.
            tell_seconds: between two plain lines.
            clock: seconds.
        """
        self._console = console
        self._tell_seconds = tell_seconds
        self._clock = clock

    @contextmanager
    def starting(self, name: str) -> Iterator[None]:
        """Something that comes up; says so before and after, unless it fails."""
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
        """Something else that may take a while; says nothing where it does not."""
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

        def tell() -> None:
            while not done.wait(self._tell_seconds):
                self._line(f"{waiting} {self._clock() - begun:.0f} s")

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join()

    def _line(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
