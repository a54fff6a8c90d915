"""Frames: other wordings of a prompt, from facts of the same relation. Ours.

Clients seldom provide rephrasings, and an edit that is trained on one wording generalises poorly to
others. A lane model therefore keeps the wordings of the relations that it was trained on.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_GAP = "\0"  # marks the subject's place in a frame; no text contains it
_FEWEST_FACTS = 2  # of a relation; the wordings of a single fact may fit no other


@dataclass(frozen=True, slots=True)
class Frames:
    """The wordings of each relation.

    Facts belong to one relation here if their prompts differ only in the subject.

    Attributes:
        by_prompt: prompt without its subject → rephrases without it, with the number of facts
            that each occurred in.
    """

    by_prompt: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, facts: Iterable[tuple[str, str, Sequence[str]]]) -> Frames:
        """Collects the frames of facts; texts that do not contain their subject are ignored.

        Args:
            facts: (prompt, subject, rephrases).
        """
        counts: dict[str, Counter[str]] = {}
        num_facts = Counter[str]()
        for prompt, subject, rephrases in facts:
            frame = cls.frame(prompt, subject)
            if not frame:
                continue
            num_facts[frame] += 1
            named = filter(None, (cls.frame(text, subject) for text in rephrases))
            counts.setdefault(frame, Counter()).update(named)
        return cls({f: c for f, c in counts.items() if c and num_facts[f] >= _FEWEST_FACTS})

    @classmethod
    def of_wordings(cls, relations: Iterable[Sequence[str]], gap: str) -> Frames:
        """Frames in which every wording of a relation is a rephrase of every other one.

        Args:
            relations: wordings of each relation, with `gap` for the subject.
            gap: marks the subject's place.
        """
        counts: dict[str, dict[str, int]] = {}
        for wordings in relations:
            frames = [wording.replace(gap, _GAP) for wording in wordings]
            for frame in frames:
                counts[frame] = {other: 1 for other in frames if other != frame}
        return cls(counts)

    def merged(self, other: Frames) -> Frames:
        """The wordings of both; numbers of facts are added."""
        counts = {frame: Counter(found) for frame, found in self.by_prompt.items()}
        for frame, found in other.by_prompt.items():
            counts.setdefault(frame, Counter()).update(found)
        return Frames(counts)

    def wordings(self) -> frozenset[str]:
        """All prompts and rephrases, without their subjects."""
        return frozenset(f for prompt, said in self.by_prompt.items() for f in (prompt, *said))

    @staticmethod
    def frame(text: str, subject: str) -> str:
        """A text without its subject; empty if the text does not contain it."""
        return text.replace(subject, _GAP) if subject and subject in text else ""

    @staticmethod
    def filled(frame: str, subject: str) -> str:
        """A frame with a subject inserted."""
        return frame.replace(_GAP, subject)

    def rephrases(
        self,
        prompt: str,
        subject: str,
        number: int,
        rng: random.Random,
        without: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Rephrases of a prompt, sampled by frequency without replacement.

        Args:
            prompt: must contain the subject; otherwise the result is empty.
            subject: is inserted into the frames.
            number: of rephrases, at most.
            rng: for the random choice.
            without: texts to leave out; the prompt itself is always left out.
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
        """The form that a lane model stores."""
        return json.dumps(
            {frame: dict(counts) for frame, counts in self.by_prompt.items()}, sort_keys=True
        )

    @classmethod
    def of_json(cls, text: str) -> Frames:
        """Reads the result of `to_json`.

        Raises:
            ValueError: the text has another form.
        """
        read = json.loads(text)
        if not isinstance(read, dict) or not all(_is_counts(counts) for counts in read.values()):
            raise ValueError("frames are not counts of rephrases by prompt")
        return cls(read)


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(n, int) and n > 0 for n in value.values())
