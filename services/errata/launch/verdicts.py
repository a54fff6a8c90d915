"""What a demo claims, and whether each claim held."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from errata.launch.output import line


@dataclass(slots=True)
class Verdicts:
    """Claims that were checked, and whether each one held."""

    console: Console
    rows: list[tuple[str | Text, bool]] = field(default_factory=list)

    def check(self, claim: str | Text, holds: bool) -> None:
        """Records and prints one claim."""
        self.rows.append((claim, holds))
        mark = ("✓", "bold green") if holds else ("✗", "bold red")
        self.console.print(line("  ", mark, " ", claim))

    @property
    def summary(self) -> tuple[str, str]:
        """Whether every claim held, with the style of the words."""
        return ("all checks passed", "bold green") if self.all_hold else ("failed", "bold red")

    @property
    def all_hold(self) -> bool:
        """Whether every claim held."""
        return all(holds for _, holds in self.rows)
