"""How the questions about records are asked: as texts, in conversations, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from errata.editing.chat import Prompt, as_chat
from errata.errors import InvalidRequestError

TEXT, CHAT = "text", "chat"
FORMS: Mapping[str, tuple[str, ...]] = {TEXT: (TEXT,), CHAT: (CHAT,), "both": (TEXT, CHAT)}
"""Option → the forms in which every question is asked."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How the questions about records are asked.

    Attributes:
        form: `text`, as the data has them; `chat`, each as the user's turn of a conversation; or
            `both`.
        num_generated: number of records whose whole answers are generated and judged.
    """

    form: str = TEXT
    num_generated: int = 0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InvalidRequestError(
                f"no form of questions is called {self.form!r}; choose one of {', '.join(FORMS)}.",
                field="form",
            )

    @property
    def in_chat(self) -> bool:
        """Whether questions are asked in conversations, which take a chat template."""
        return CHAT in FORMS[self.form]


AS_TEXTS = Asking()
"""As the data has them, and no whole answers."""


def in_form(prompt: str, form: str) -> Prompt:
    """A question in one form."""
    return as_chat(prompt) if form == CHAT else prompt
