"""Chooses the separator between a prompt and the text that follows it: one blank, or nothing.

It depends on the end of the prompt and on the script: nothing after an opening bracket or quote, a
hyphen or a currency sign ("Saint-" + "Denis", "$" + "850", "(" + "Lyon"), and nothing in scripts
without blanks between words. An author can state another separator.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

# First and last code points of scripts without blanks between words, punctuation included.
_UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # CJK radicals and punctuation, kana, Bopomofo
    (0x3190, 0x9FFF),  # kana extensions, CJK ideographs
    (0xA000, 0xA4CF),  # Yi
    (0xF900, 0xFAFF),  # CJK compatibility ideographs
    (0xFE30, 0xFE4F),  # CJK compatibility forms
    (0xFF01, 0xFF9F),  # full-width forms, half-width kana
    (0x1AFF0, 0x1B16F),  # kana supplements
    (0x20000, 0x3FFFF),  # CJK ideographs
)
_FIRSTS = [first for first, _ in _UNSPACED]
_QUOTES = frozenset("\"'“”‘’«»‹›„‚")
_INVISIBLE_JOINTS = frozenset("\u200b\u200c\u200d\u2060\ufeff")
# Punctuation that ends the preceding text, and English contractions; not "'s-Hertogenbosch".
_CLOSING = re.compile(
    r"""[,.;:!?%‰°…)\]}»”’"']+(?:\s|$)|['’](?:s|t|d|m|re|ve|ll)(?![\w-]|\s[A-Z])"""
)
_ELIDED = re.compile(r"([^\W\d_]+)(['’])$")  # l'Italie, d’Artagnan; but not dogs'
# A number that continues: 3.14, 1,000, 12:30, -40; but not a year with the text after it.
_NUMBERS = (
    (re.compile(r"(?<![\d.,])\d{1,3}[.]$"), re.compile(r"\d")),
    (re.compile(r"(?<!\d)\d{1,3},$"), re.compile(r"\d{3}(?!\d)")),
    (re.compile(r"(?<!\d)\d{1,2}:$"), re.compile(r"\d\d(?!\d)")),
    (re.compile(r"-$"), re.compile(r"\d")),
)
MOST_STATED = 8
"""Maximum length of a stated separator, in characters."""


def is_separator(stated: str) -> bool:
    """Whether a stated separator is valid: at most `MOST_STATED` blanks, tabs and line breaks."""
    return len(stated) <= MOST_STATED and all(
        character in "\n\t" or unicodedata.category(character) == "Zs" for character in stated
    )


def separator(prompt: str, target: str) -> str:
    """A blank, or nothing if one side has white space or the text continues without a blank."""
    if not prompt or prompt[-1].isspace() or target[:1].isspace():
        return ""
    if _continues(prompt) or _CLOSING.match(target):
        return ""
    if any(begun.search(prompt) and more.match(target) for begun, more in _NUMBERS):
        return ""
    if _is_unspaced(target[:1]) and _is_mostly_unspaced(prompt):
        return ""
    return " "


def _continues(prompt: str) -> bool:
    """Whether the prompt's end requires that the text continues without a blank."""
    last, before = prompt[-1], prompt[:-1]
    category = unicodedata.category(last)
    if last in _INVISIBLE_JOINTS or _is_unspaced(last):
        return True
    if category == "Cf":  # an invisible direction mark: the preceding text decides
        return bool(before) and _continues(before)
    if (elided := _ELIDED.search(prompt)) and not _is_open_quote(before, elided[2]):
        word = elided[1]
        return len(word) <= 2 or word[-1] not in "sS"
    if last in _QUOTES:
        return _opens(before)
    starts_word = not before or before[-1].isspace()
    match category:
        case "Ps" | "Pc":
            return True
        case "Pd":
            return not starts_word
        case "Sc":
            return not before.rstrip()[-1:].isdigit()
    if last in "#~":
        return starts_word
    return last in "/\\@^¿¡" or (last == "=" and not starts_word)


def _is_open_quote(text: str, closing: str) -> bool:
    """Whether a single quotation mark was opened before a word and not closed after one."""
    opening = "'" if closing == "'" else "‘"
    opened = len(re.findall(rf"(?:^|[\s(]){opening}\w", text))
    return opened > len(re.findall(rf"\w{closing}(?:\W|$)", text))


def _opens(before: str) -> bool:
    """Whether a quotation mark after `before` is an opening one."""
    return (
        not before
        or before[-1].isspace()
        or before[-1] in _QUOTES
        or before[-1] in ":¿¡"
        or unicodedata.category(before[-1]) in ("Ps", "Pi", "Pd")
    )


def _is_unspaced(character: str) -> bool:
    if not character:
        return False
    at = bisect_right(_FIRSTS, ord(character)) - 1
    return at >= 0 and ord(character) <= _UNSPACED[at][1]


def _is_mostly_unspaced(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return bool(letters) and 2 * sum(map(_is_unspaced, letters)) >= len(letters)
