"""Wordings: texts without their subject, and without a sentence that stands before the question.

CounterFact puts a random sentence before half of its rephrases: "Never before published. The
profession of Ada is" has the wording of "The profession of Bob is". What comes before the subject,
up to the last end of a sentence, therefore does not belong to a wording.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from errata.editing.retriever.frames import Frames

SLOT = Frames.frame(" ", " ")
"""The subject's place in a wording."""
_FEWEST = 2  # texts of a wording that explains the end of another text
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s+|\n\s*""")


class Wordings:
    """Reads wordings with the help of all texts of a data set.

    A heading without a full stop ("Category:Rivers of Peru ⏎ Ada is from") ends only where a known
    wording begins.
    """

    def __init__(self, frames: Iterable[str]) -> None:
        """Collects the frequent wordings.

        Args:
            frames: texts with `SLOT` in place of their subject, one for each occurrence.
        """
        whole = Counter(_spaced(frame) for frame in frames if SLOT in frame and not _start(frame))
        self._known = frozenset(wording for wording, times in whole.items() if times >= _FEWEST)
        literals = sorted(self._known, key=lambda wording: (-len(wording), wording))
        self._parts = [
            (wording, *wording.split(SLOT)) for wording in literals if wording.count(SLOT) == 1
        ]

    def of(self, frame: str) -> str:
        """The wording of a frame; empty if the frame has no slot."""
        if SLOT not in frame:
            return ""
        start = _start(frame)
        wording = _spaced(frame[start:])
        ends_with_line = "\n" in frame[len(frame[:start].rstrip()) : start]
        if not ends_with_line or wording in self._known:
            return wording
        before, _, behind = wording.partition(SLOT)
        words = before.split(" ")
        for first in range(1, len(words)):
            shorter = " ".join(words[first:]) + SLOT + behind
            if shorter in self._known:
                return shorter
        return wording

    def of_text(self, text: str, subject: str) -> str:
        """The wording of a text; empty if the text does not contain its subject."""
        return self.of(Frames.frame(text, subject))

    def matching(self, text: str, among: Collection[str]) -> tuple[str, str]:
        """The longest wording that a text about an unknown subject can have, and that subject.

        Args:
            text: such as a locality prompt.
            among: wordings to consider.

        Returns:
            Two empty texts if no known wording fits.
        """
        text = _spaced(text)
        for wording, before, behind in self._parts:
            fits = text.startswith(before) and text.endswith(behind)
            if fits and len(text) > len(before) + len(behind) and wording in among:
                return wording, text[len(before) : len(text) - len(behind)]
        return "", ""


def _start(frame: str) -> int:
    """The index behind the last sentence before the subject; 0 if there is none."""
    before = frame.partition(SLOT)[0]
    return max((found.end() for found in _SENTENCE_END.finditer(before)), default=0)


def _spaced(text: str) -> str:
    return " ".join(text.split())
