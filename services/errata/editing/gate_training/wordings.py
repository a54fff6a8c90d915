"""Small changes of a wording that leave its meaning: how people, and translations, vary a question.

They need no knowledge of the relation, and therefore carry over to relations outside the training.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from errata.editing.gate_training.relations import GAP

_OPENINGS = (
    "Tell me: {}", "Do you know: {}", "Question: {}", "Please answer. {}", "I wonder: {}",
    "Hi! {}", "Can you tell me, {}",
)  # fmt: skip
_PAIRS = (
    ("Which ", "What "), ("What ", "Which "), ("What is ", "What's "), ("Who is ", "Who's "),
    ("Who was ", "Who is "), ("Who is ", "Who was "), (" was ", " is "), (" is ", " was "),
    ("Where is ", "Where's "), ("In which ", "What "), ("In what ", "Which "), (" the ", " "),
    (" did ", " does "), (" does ", " did "), ("When ", "On what date "),
    ("When ", "In which year "),
    ("Who ", "Which person "), ("Where ", "In what place "), ("Where ", "In which location "),
    ("What is the name of ", "Who is "), ("Who is ", "What is the name of "),
)  # fmt: skip
_WORD = re.compile(r"\S+")


def varied(wording: str, rng: random.Random) -> str:
    """A wording with one or two changes; it still contains the gap."""
    for _ in range(rng.choice((1, 1, 2))):
        wording = rng.choice(_CHANGES)(wording, rng)
    return wording


def _opened(wording: str, rng: random.Random) -> str:
    return rng.choice(_OPENINGS).replace("{}", wording)


def _swapped(wording: str, rng: random.Random) -> str:
    fitting = [pair for pair in _PAIRS if pair[0] in wording]
    if not fitting:
        return wording
    old, new = rng.choice(fitting)
    return wording.replace(old, new, 1)


def _without_a_word(wording: str, rng: random.Random) -> str:
    words = _WORD.findall(wording)
    removable = [place for place, word in enumerate(words) if GAP not in word]
    if len(removable) < 3:
        return wording
    del words[rng.choice(removable)]
    return " ".join(words)


def _two_words_swapped(wording: str, rng: random.Random) -> str:
    words = _WORD.findall(wording)
    place = rng.randrange(max(1, len(words) - 1))
    words[place : place + 2] = reversed(words[place : place + 2])
    return " ".join(words)


def _lower(wording: str, rng: random.Random) -> str:
    text = wording[:1].lower() + wording[1:]
    return text.rstrip("?") if rng.random() < 0.5 else text


_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    _opened,
    _swapped,
    _swapped,
    _swapped,
    _without_a_word,
    _two_words_swapped,
    _lower,
)
