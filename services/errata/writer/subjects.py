"""The subject of an edit whose author named none: the longest name in the prompt.

A name is a run of words with a capital letter or a digit ("Danielle Darrieux", "iPhone 4"), small
words between them allowed ("Edwin of Northumbria"). It ends with a possessive ("Steve Jobs's wife")
and at a sentence's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\w[\w.&-]*(?:['’]\w[\w.&-]*)*['’]?")
_POSSESSIVE = re.compile(r"['’]s?$", re.IGNORECASE)
_LINKS = frozenset(
    "al and bin d da de del della der des di do dos du e el ibn la le of the van von y".split()
)
_MOST_LINKS = 2
# Words that begin a sentence with a capital letter and name nobody.
_OPENINGS = frozenset(
    "a an are at by did do does for from he her his how i in is it its my on of our she that the "
    "their these they this those to was we were what when where which who whom whose why with "
    "your".split()
)
_LONGEST_ABBREVIATION = 3  # letters before the full stop of "Dr." or "Mrs."


def longest_name(prompt: str) -> str:
    """The longest name; the first of several as long; empty if there is none."""
    return max(_names(prompt), key=len, default="")


def _names(prompt: str) -> Iterator[str]:
    """Names in order, as the prompt spells them."""
    start, end = -1, -1  # of the name that is being read
    num_links, after = 0, 0
    for word in _WORD.finditer(prompt):
        text, gap = word[0], prompt[after : word.start()]
        after = word.end()
        if start >= 0 and (gap.strip() or num_links > _MOST_LINKS):
            yield prompt[start:end]
            start = -1
        if _is_name(text):
            if start < 0 and text.rstrip(".'’").split("'")[0].split("’")[0].lower() in _OPENINGS:
                continue
            start = word.start() if start < 0 else start
            num_links = 0
            own = _POSSESSIVE.sub("", text)
            end = word.start() + len(own.rstrip(".-&"))
            if own != text or _ends_sentence(own):
                yield prompt[start:end]
                start = -1
        elif start >= 0:
            num_links += 1
            if text not in _LINKS:
                yield prompt[start:end]
                start = -1
    if start >= 0:
        yield prompt[start:end]


def _is_name(word: str) -> bool:
    return word[0].isdigit() or any(letter.isupper() for letter in word)


def _ends_sentence(word: str) -> bool:
    return word.endswith(".") and len(word.rstrip(".").rpartition(".")[2]) > _LONGEST_ABBREVIATION
