"""Edits of facts that SmolLM2 knows, one for each method, with the prompts that check them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files(__package__) / "smollm2"))


@dataclass(frozen=True, slots=True)
class ChatProbe:
    """A fact that an edit must not change, as a text to continue and as a question of a chat."""

    prompt: str
    question: str
    object: str


@dataclass(frozen=True, slots=True)
class ChatEdit:
    """An edit that contradicts one fact.

    Attributes:
        method: that the demo makes it with.
        subject: of the fact.
        object: what the unedited model says.
        target: what the edited model shall say.
        prompt: a text; the target continues it.
        rephrases: other texts.
        question: the same as a question of a chat.
        question_rephrases: other questions.
        neighbours: facts of the same relation about other subjects.
    """

    method: str
    subject: str
    object: str
    target: str
    prompt: str
    rephrases: tuple[str, ...]
    question: str
    question_rephrases: tuple[str, ...]
    neighbours: tuple[ChatProbe, ...]


def chat_edits() -> Mapping[str, ChatEdit]:
    """The edits by method."""
    content = tomllib.loads((_FOLDER / "edits.toml").read_text("utf-8"))
    return {
        row["method"]: ChatEdit(
            method=row["method"],
            subject=row["subject"],
            object=row["object"],
            target=row["target"],
            prompt=row["prompt"],
            rephrases=tuple(row["rephrases"]),
            question=row["question"],
            question_rephrases=tuple(row["question_rephrases"]),
            neighbours=tuple(
                ChatProbe(near["prompt"], near["question"], near["object"])
                for near in row["neighbours"]
            ),
        )
        for row in content["edits"]
    }


def chat_lanes_path() -> Path:
    """The lanes file for SmolLM2; the lane model is in the same folder."""
    return _FOLDER / "lanes.toml"


def says(answer: str, wanted: str, *others: str) -> bool:
    """Whether an answer names one thing in whole words, and none of the others before it.

    Where one name begins with another, as New York City with New York, the longer one is named.
    """
    names = {wanted, *others}
    named = [(start, -len(name), name) for name in names if (start := _place(answer, name)) >= 0]
    return bool(named) and min(named)[-1] == wanted


def _place(answer: str, name: str) -> int:
    """Where an answer names something; −1 if nowhere."""
    flags = re.IGNORECASE if len(name) > 2 else re.NOFLAG  # a symbol such as He has its spelling
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer, flags)
    return found.start() if found else -1
