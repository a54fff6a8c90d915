"""How searches and events look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from errata.launch.output import line
from errata.launch.show import edit_list
from errata_client import Event, FoundEdit

_STYLES = {
    "edit.committed": "green",
    "edit.rejected": "red",
    "edit.reverted": "yellow",
    "edit.expired": "yellow",
    "edit.withdrawn": "yellow",
    "replica.left": "red",
    "replica.lagging": "red",
    "replica.disagrees": "red",
}


def found_list(found: Sequence[FoundEdit]) -> RenderableType:
    """Edits that were found, one row each."""
    if not found:
        return line("nothing was found")
    return edit_list(each.edit for each in found)


def event_line(event: Event) -> Text:
    """One event, with its time in this machine's time zone."""
    parts: list[str | tuple[str, str]] = [
        (f"{event.time.astimezone():%Y-%m-%d %H:%M:%S} ", "dim"),
        (event.kind or "unknown", _STYLES.get(event.kind, "cyan")),
        f" {event.edit or event.canary or event.replica}",
    ]
    if event.lane:
        parts.append(f" in {event.lane}")
    if event.author:
        parts.append(f" by {event.author}")
    if event.comment:
        parts.append(f": {event.comment}")
    return line(*parts, (f"  (seq {event.seq})", "dim"))
