"""An edit: one correction to the model's knowledge, and the batch it is fitted in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """One correction, as the log carries it.

    Attributes:
        name: `edits/{seq}-{index}`, unique and never renamed.
        prompt: what is asked; contains `subject`.
        target: what the model shall continue the prompt with, without leading blank.
        subject: whom or what the fact is about; occurs in `prompt`.
        rephrases: other prompts that shall have the same answer; checked, and learned from by some.
        locality_probes: prompts whose continuation shall not change.
        separator: what stands between a prompt and the target, as its author stated it; None
            leaves it to `seam`.
    """

    name: str
    prompt: str
    target: str
    subject: str
    rephrases: tuple[str, ...] = ()
    locality_probes: tuple[str, ...] = ()
    separator: str | None = None


@dataclass(frozen=True, slots=True)
class EditBatch:
    """Edits that are fitted and committed together, in log order.

    Attributes:
        edits: at least one.
        seed: all random choices of the fit derive from it; the log carries it.
        attempt: 0 at first; above 0 the batch failed its check and shall be written more firmly.
    """

    edits: tuple[Edit, ...]
    seed: int
    attempt: int = 0

    def __len__(self) -> int:
        """Number of edits, u."""
        return len(self.edits)
