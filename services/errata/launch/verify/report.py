"""What a verification found, and how it looks on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType

from errata.launch.output import TextTable, line

CHECKS = ("chain", "signatures", "artifacts")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        seq: of the entry.
        check: one of `CHECKS`.
        message: what is wrong, and what to do.
    """

    seq: int
    check: str
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a verification.

    Attributes:
        source: where the entries came from.
        head_seq: the last entry that was read.
        chain_digest: H(head_seq), hex; compare it with `errata status`.
        checked: number of things that were checked, by check.
        unsigned: number of commits before trust began.
        trusted_keys: ids of the keys that are trusted at the head.
        problems: by position.
        ok: whether there are none.
    """

    source: str
    head_seq: int
    chain_digest: str
    checked: Mapping[str, int]
    unsigned: int
    trusted_keys: tuple[str, ...]
    problems: tuple[Problem, ...]
    ok: bool


def verification_table(found: Verification) -> RenderableType:
    """A row for each check, then the first problem."""
    table = TextTable()
    for column in ("check", "checked", "problems", "first at"):
        table.add_column(column, overflow="fold")
    for check in CHECKS:
        wrong = [problem for problem in found.problems if problem.check == check]
        first = str(wrong[0].seq) if wrong else ""
        table.add_row(check, f"{found.checked[check]:,}", f"{len(wrong):,}", first)
    keys = ", ".join(found.trusted_keys) or "none: commits are not signed"
    facts = [
        f"{found.source}: {found.head_seq:,} entries, chain {found.chain_digest}",
        f"trusted keys: {keys}; commits from before trust began: {found.unsigned:,}",
    ]
    if found.problems:
        first_problem = found.problems[0]
        where = f"first problem, at {first_problem.seq} ({first_problem.check}): "
        outcome = line((where + first_problem.message, "bold red"))
    else:
        outcome = line(("everything holds", "green"))
    return Group(*map(line, facts), table, outcome)
