"""Edits, each a correction to the model's knowledge, and batches of edits."""

from __future__ import annotations

from dataclasses import dataclass

from errata.editing.chat import Prompt, said
from errata.editing.namespaces import DEFAULT


@dataclass(frozen=True, slots=True)
class Edit:
    """One correction.

    Attributes:
        name: `edits/{seq}-{index}`, unique and never changed.
        prompt: the question, a text or a conversation; contains `subject`.
        target: the required continuation of the prompt, without leading blank.
        subject: the entity that the fact is about; occurs in `prompt`.
        rephrases: other prompts with the same answer; checks use them, and some methods train on
            them.
        locality_probes: prompts whose continuation must not change.
        separator: the text between a prompt and the target, if the author stated it; None lets
            `seam` choose it.
        namespace: that it belongs to; empty for the default one. While its canary is open, the
            canary's place; see `namespaces.place_of`.
        canary: `canaries/{canary}` that it was submitted to; empty without one.
    """

    name: str
    prompt: Prompt
    target: str
    subject: str
    rephrases: tuple[Prompt, ...] = ()
    locality_probes: tuple[Prompt, ...] = ()
    separator: str | None = None
    namespace: str = DEFAULT
    canary: str = ""

    @property
    def said(self) -> str:
        """What decides which prompts the edit claims, and which edits it replaces."""
        return said(self.prompt)

    def separator_of(self, prompt: Prompt) -> str | None:
        """The stated separator, if the prompt has the form for which it was stated."""
        return self.separator if isinstance(prompt, str) == isinstance(self.prompt, str) else None


LAST_ATTEMPT = 2
"""An edit that fails its check in this attempt, alone, is rejected."""


@dataclass(frozen=True, slots=True)
class EditBatch:
    """Edits that are fitted and committed together, in log order.

    Attributes:
        edits: at least one; all of one namespace.
        seed: the seed of all random choices of the fit.
        attempt: 0 for the first fit; after a failed check it increases up to `LAST_ATTEMPT`, and
            the fit becomes stronger.
    """

    edits: tuple[Edit, ...]
    seed: int
    attempt: int = 0

    def __len__(self) -> int:
        """Number of edits, u."""
        return len(self.edits)
