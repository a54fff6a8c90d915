"""Finds the subject of an edit whose author gave none: the longest name in the prompt.

A name is a sequence of words that contain a capital letter or a digit ("Danielle Darrieux",
"iPhone 4"); small words can link them ("Edwin of Northumbria"). It ends with a possessive
("Steve Jobs's wife") and at the end of a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Letters and digits, with the characters that names contain: 10,000 Maniacs, AC/DC, O'Hare, C++.
_INSIDE = r"(?:[\w.&!-]|(?<=\w)[,/](?=\w))"
_WORD = re.compile(rf"\w{_INSIDE}*(?:['’]\w{_INSIDE}*)*[+#]*['’]?")
_POSSESSIVE = re.compile(r"['’]s$|(?<=s)['’]$", re.IGNORECASE)
_LINKS = frozenset(
    "al and bin d da de del della der des di do dos du e el ibn la le of the van von y".split()
)
_MAX_LINKS = 2
# Words that are capitalised at the beginning of a sentence, but are not names.
_OPENINGS = frozenset(
    "a although an and are as at because by did do does during for from he her his how i if in is "
    "it its my on of our she since that the their these they this those to was we were what when "
    "where which while who whom whose why with your".split()
)
_MAX_ABBREVIATION = 3  # letters before the full stop of "Dr." or "Mrs."


def longest_name(prompt: str) -> str:
    """The longest name, the first if several are equally long; empty if there is none."""
    return max(_names(prompt), key=len, default="")


def _names(prompt: str) -> Iterator[str]:
    """The names in order, as the prompt spells them."""
    start, end = -1, -1  # of the current name
    num_links, after = 0, 0
    for word in _WORD.finditer(prompt):
        text, gap = word[0], prompt[after : word.start()]
        after = word.end()
        if start >= 0 and (gap.strip() or num_links > _MAX_LINKS):
            yield prompt[start:end]
            start = -1
        if _is_name(text):
            if start < 0 and _opens_sentence(text):
                continue
            start = word.start() if start < 0 else start
            num_links = 0
            own = _POSSESSIVE.sub("", text)
            end = word.start() + len(own if _is_dotted(own) else own.rstrip(".-&!'’"))
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
    return word.endswith(".") and len(word.rstrip(".").rpartition(".")[2]) > _MAX_ABBREVIATION


def _opens_sentence(word: str) -> bool:
    """Whether it is capitalised only as a sentence's first word; "It's" counts as "It"."""
    return re.split(r"['’]", word.rstrip(".'’"))[0].lower() in _OPENINGS


def _is_dotted(word: str) -> bool:
    """Whether the full stop at the end belongs to the word, as in U.S. and J.R.R."""
    return re.fullmatch(r"(?:\w\.){2,}", word) is not None
