"""Text from outside as it may be printed: no character of it can do more than be read.

Prompts, answers, authors and names are chosen by others and stay in the log. A terminal obeys some
of their characters: ESC moves the cursor and sets the clipboard, U+202E turns a line round, U+200B
and tags hide text, and a line break forges a line of output.
"""

from __future__ import annotations

import json
import re
import unicodedata

# Characters with an empty glyph that Unicode counts as letters and marks: the rest of its property
# Default_Ignorable_Code_Point, whose other members `str.isprintable` finds.
_EMPTY = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def shown(text: str) -> str:
    r"""A text on one line, with control, format and invisible characters escaped.

    These are the characters of the categories C* and Zl/Zp, lone surrogates and unassigned ones
    included, and those without a glyph. They are written as in Python: `\n`, `\x1b`, `\u202e`. A
    backslash stays as it is, so that paths can be copied; JSON output tells the two apart.
    """
    if text.isprintable() and not _EMPTY.search(text):
        return text
    return "".join(char if _is_visible(char) else _escaped(char) for char in text)


def shown_lines(text: str) -> str:
    """The same for a text of several lines, whose line breaks stay."""
    return "\n".join(map(shown, text.split("\n")))


def shown_json(document: str) -> str:
    """A JSON document that is equal to another, with the same characters escaped by JSON's rules.

    Args:
        document: as `json.dumps` writes it, with `ensure_ascii` or without.
    """
    if document.isprintable() and not _EMPTY.search(document):
        return document
    return "".join(
        char if char == "\n" or _is_visible(char) else json.dumps(char)[1:-1] for char in document
    )


def _is_visible(char: str) -> bool:
    is_printed = char.isprintable() or unicodedata.category(char) == "Zs"
    return is_printed and not _EMPTY.match(char)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
