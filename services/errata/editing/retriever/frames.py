"""Frames: other ways to ask about a subject, from facts of the same relation. Ours.

A client seldom brings rephrasings, and an edit that was learned from one wording is known in that
wording. Whoever trained a lane model has seen how its relations are asked.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_GAP = "\0"  # where a frame's subject goes; no text holds it
_FEWEST_FACTS = 2  # of a relation: a frame that was met once says nothing of others


@dataclass(frozen=True, slots=True)
class Frames:
    """How facts of each relation are asked.

    Facts are of one relation here if their prompts are the same but for the subject.

    Attributes:
        by_prompt: prompt without its subject → rephrases without it, and how often each was met.
    """

    by_prompt: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, facts: Iterable[tuple[str, str, Sequence[str]]]) -> Frames:
        """Takes prompts, subjects and rephrases of facts; texts without their subject are left out.

        Args:
            facts: (prompt, subject, rephrases).
        """
        found: dict[str, Counter[str]] = {}
        num_facts = Counter[str]()
        for prompt, subject, rephrases in facts:
            frame = cls.frame(prompt, subject)
            if not frame:
                continue
            num_facts[frame] += 1
            named = filter(None, (cls.frame(text, subject) for text in rephrases))
            found.setdefault(frame, Counter()).update(named)
        return cls({f: c for f, c in found.items() if c and num_facts[f] >= _FEWEST_FACTS})

    @staticmethod
    def frame(text: str, subject: str) -> str:
        """A text without its subject; empty if it does not name it."""
        return text.replace(subject, _GAP) if subject and subject in text else ""

    @staticmethod
    def filled(frame: str, subject: str) -> str:
        """The text of a frame about a subject."""
        return frame.replace(_GAP, subject)

    def rephrases(
        self,
        prompt: str,
        subject: str,
        number: int,
        rng: random.Random,
        without: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Other ways to ask the same, drawn by how often each was met.

        Args:
            prompt: with its subject in it; else there are none.
            subject: is put in.
            number: so many different ones, or as many as there are.
            rng: of the choice.
            without: texts that are not wanted; the prompt itself never is.
        """
        if not number:
            return ()
        known = self.by_prompt.get(self.frame(prompt, subject), {})
        counts = {self.filled(f, subject): known[f] for f in sorted(known)}
        wanted = [text for text in counts if text != prompt and text not in without]
        # Efraimidis and Spirakis: the n highest u^(1/w) are a weighted sample without replacement.
        wanted.sort(key=lambda text: rng.random() ** (1 / counts[text]), reverse=True)
        return tuple(wanted[:number])

    def to_json(self) -> str:
        """As a lane model carries them."""
        return json.dumps(
            {frame: dict(met) for frame, met in self.by_prompt.items()}, sort_keys=True
        )

    @classmethod
    def of_json(cls, text: str) -> Frames:
        """Reads what `to_json` made.

        Raises:
            ValueError: it was made otherwise.
        """
        read = json.loads(text)
        if not isinstance(read, dict) or not all(_is_counts(met) for met in read.values()):
            raise ValueError("frames are not counts of rephrases by prompt")
        return cls(read)


def _is_counts(met: object) -> bool:
    return isinstance(met, dict) and all(isinstance(n, int) and n > 0 for n in met.values())
