"""Which edits a caller may see."""

from __future__ import annotations

from dataclasses import dataclass

from errata.platform.security.identity import ALL_LANES, ALL_NAMESPACES, current


@dataclass(frozen=True, slots=True)
class Sight:
    """Limits of what a caller may see; None is none.

    Attributes:
        lanes: names without `lanes/`.
        namespaces: `""` is the default one.
    """

    lanes: frozenset[str] | None = None
    namespaces: frozenset[str] | None = None

    @classmethod
    def of_caller(cls) -> Sight:
        """That of the current call's identity."""
        caller = current()
        if caller is None:
            return cls()
        return cls(
            None if ALL_LANES in caller.lanes else caller.lanes,
            None if ALL_NAMESPACES in caller.namespaces else caller.namespaces,
        )

    @property
    def is_limited(self) -> bool:
        """Whether anything is hidden."""
        return self.lanes is not None or self.namespaces is not None

    def condition(self, table: str) -> tuple[str, list[str]]:
        """A condition on a table's columns `lane` and `namespace`, and its values."""
        lanes = None if self.lanes is None else [f"lanes/{name}" for name in sorted(self.lanes)]
        spaces = None if self.namespaces is None else sorted(self.namespaces)
        parts, values = ["1"], list[str]()
        for column, names in (("lane", lanes), ("namespace", spaces)):
            if names is not None:
                parts.append(f"{table}.{column} IN ({', '.join('?' * len(names))})")
                values += names
        return " AND ".join(parts), values
