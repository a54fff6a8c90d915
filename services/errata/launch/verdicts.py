"""What a demo claims, and whether each claim held."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console


@dataclass(slots=True)
class Verdicts:
    """Claims that were checked, and whether each one held."""

    console: Console
    rows: list[tuple[str, bool]] = field(default_factory=list)

    def check(self, claim: str, holds: bool) -> None:
        """Records and prints one claim."""
        self.rows.append((claim, holds))
        mark = "[bold green]✓[/]" if holds else "[bold red]✗[/]"
        self.console.print(f"  {mark} {claim}")

    @property
    def all_hold(self) -> bool:
        """Whether every claim held."""
        return all(holds for _, holds in self.rows)
