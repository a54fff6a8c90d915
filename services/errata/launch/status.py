"""The state of a running system at a glance, once or again and again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from errata.launch import show
from errata_client import Client, ErrataError, Head, Lane, Replica

_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """What was seen.

    Attributes:
        head: of the log.
        replicas: that reported lately.
        edits: how many, by state.
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
        """For a terminal."""
        return show.status_lines(self.head, self.replicas, self.edits, self.lanes)


def look(client: Client) -> Status:
    """Asks once.

    Raises:
        ErrataError: the system does not answer.
    """
    edits = show.count_states(client.list_edits())
    return Status(client.head(), list(client.replicas()), edits, list(client.lanes()))


def watch_status(client: Client, console: Console) -> None:
    """Asks every second until interrupted; a system that is away is shown as such.

    A terminal is written over; elsewhere one look follows the other.
    """
    if not console.is_terminal:
        while True:
            console.print(_looked(client))
            time.sleep(_SECONDS)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(_looked(client), refresh=True)
            time.sleep(_SECONDS)


def _looked(client: Client) -> Group | Text:
    try:
        return look(client).lines()
    except ErrataError as error:
        return Text(f"no answer: {error.message}", "red")
