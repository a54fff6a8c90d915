"""The state of a running system, shown once or every second."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from errata.launch import show
from errata.launch.output import line
from errata_client import Client, ErrataError, Head, Lane, Replica

_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a system at one point in time.

    Attributes:
        head: of the log.
        replicas: that reported recently.
        edits: number of edits by state.
        lanes: with their sizes and warnings.
    """

    head: Head
    replicas: list[Replica]
    edits: dict[str, int]
    lanes: list[Lane]

    @property
    def agrees(self) -> bool:
        """Whether no replica contradicts the log."""
        return all(replica.agrees for replica in self.replicas)

    def lines(self) -> Group:
        """The status as shown on a terminal."""
        return show.status_lines(self.head, self.replicas, self.edits, self.lanes)


def read_status(client: Client) -> Status:
    """Reads the status once.

    Raises:
        ErrataError: the system does not answer.
    """
    edits = show.count_states(client.list_edits())
    return Status(client.head(), list(client.replicas()), edits, list(client.lanes()))


def watch_status(client: Client, console: Console) -> None:
    """Shows the status every second until interrupted, or that the system does not answer.

    On a terminal each status replaces the one before; elsewhere it follows.
    """
    if not console.is_terminal:
        while True:
            console.print(_status_or_error(client))
            time.sleep(_SECONDS)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(_status_or_error(client), refresh=True)
            time.sleep(_SECONDS)


def _status_or_error(client: Client) -> Group | Text:
    try:
        return read_status(client).lines()
    except ErrataError as error:
        return line((f"no answer: {error.message}", "red"))
