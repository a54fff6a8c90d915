"""What a user types, as a query that the full-text index can take; and texts as it reads them.

The index is SQLite's FTS5 with its tokenizer `unicode61`, which finds words between blanks and
punctuation. Scripts that write no blanks, and emoji, have each character as a word of its own: a
run of them in a query is a phrase, and so finds any part of a text.
"""

from __future__ import annotations

import re
import unicodedata

from errata.errors import InvalidRequestError

MAX_TERMS = 64
"""Most words and phrases of one query."""
_ALONE = re.compile(
    "(["
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # CJK
    "\uac00-\ud7af"  # Hangul, whose particles follow words immediately
    "\u2600-\u27bf\U0001f000-\U0001faff"  # symbols and emoji
    "])"
)
_TERM = re.compile(r'"([^"]*)"?|(\S+?)(?=["\s]|$)')
_WORD_CATEGORIES = ("L", "N")
_MORE_CATEGORIES = ("Co", "So")


def indexed(text: str) -> str:
    """A text as the index gets it."""
    return _ALONE.sub(r" \1 ", unicodedata.normalize("NFC", text.replace("\0", " ")))


def match_of(text: str) -> str:
    """The index's query for a user's text: all its words and phrases must occur.

    `"several words"` is a phrase, and `word*` a beginning of a word. Nothing else has a meaning of
    its own: operators, quotes and brackets of the index's own language are plain text.

    Returns:
        The query; empty for an empty text.

    Raises:
        InvalidRequestError: no letter, digit or symbol to look for, or too many words.
    """
    if not text.strip():
        return ""
    terms = []
    for quoted, word in _TERM.findall(text):
        wanted = quoted or word
        is_beginning = not quoted and word.endswith("*")
        found = indexed(wanted.rstrip("*") if is_beginning else wanted)
        if _has_word(found):
            escaped = found.replace('"', '""').strip()
            terms.append(f'"{escaped}"{" *" if is_beginning else ""}')
    if not terms:
        raise InvalidRequestError(
            "the text has no letter, digit or symbol to look for; give a word.", field="text"
        )
    if len(terms) > MAX_TERMS:
        raise InvalidRequestError(
            f"the text has {len(terms)} words; the limit is {MAX_TERMS}. Give fewer, or put those "
            "that stand together in quotes.",
            field="text",
            limit=MAX_TERMS,
        )
    return " AND ".join(terms)


def _has_word(text: str) -> bool:
    categories = map(unicodedata.category, text)
    return any(kind[0] in _WORD_CATEGORIES or kind in _MORE_CATEGORIES for kind in categories)
