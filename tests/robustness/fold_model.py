"""A second, independent fold of the log: which edits are in force at each position.

It shares no code with the services: what it says is compared with what replicas and writer say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["requested", "committed", "rejected", "reverted", "compacted", "other"]


@dataclass(frozen=True)
class Kept:
    """An entry as the log holds it at the end.

    Attributes:
        content: as `log_reading.content_of` words it.
        kind: of its effect.
        lane: that it belongs to; empty for other kinds.
        edits: that it names.
    """

    seq: int
    request_id: str
    content: str
    payload: bytes
    chain_digest: bytes
    kind: Kind = "other"
    lane: str = ""
    edits: tuple[str, ...] = ()


_AFTER = {"committed": "requested", "rejected": "requested", "reverted": "committed"}


@dataclass
class Folded:
    """The log, folded.

    Attributes:
        states: of each edit at the end.
        active: by position from 0 on, the edits in force, in the order of their commits.
        problems: entries that contradict those before them.
    """

    states: dict[str, str]
    active: list[tuple[str, ...]]
    problems: list[str]


def fold(entries: list[Kept]) -> Folded:
    """Folds entries, which are in order."""
    states: dict[str, str] = {}
    lanes: dict[str, str] = {}
    now: tuple[str, ...] = ()
    active, problems = [now], []
    for entry in entries:
        for name in entry.edits:
            told = f"entry {entry.seq} ({entry.kind}) names {name}"
            if entry.kind == "requested":
                if name in states:
                    problems.append(f"P9: {told}, which exists")
                states[name], lanes[name] = "requested", entry.lane
            elif entry.kind in _AFTER:
                if states.get(name) != _AFTER[entry.kind]:
                    problems.append(f"P9: {told}, which is {states.get(name)}")
                states[name] = entry.kind
        if entry.kind == "committed":
            now = now + entry.edits
        elif entry.kind == "reverted":
            now = tuple(name for name in now if name not in entry.edits)
        elif entry.kind == "compacted":
            own = {name for name in now if lanes[name] == entry.lane}
            if own != set(entry.edits):
                problems.append(f"P9: entry {entry.seq} compacts other edits than the active ones")
        active.append(now)
    return Folded(states, active, problems)
