"""Augmentation of training facts: a small data set teaches more. Ours."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from errata.editing.retriever.examples import Example, frames_of
from errata.editing.retriever.frames import Frames

_FEWEST_TIMES = 4  # occurrences of a word; the LLM is poor at generating rarer ones
_PUNCTUATION = ".,:;!?()\"'"
_MOST_SHARED = 0.1  # share of targets that two different relations may have in common


class Inventor:
    """Replaces subjects by invented names, so that the encoder learns to compare names.

    With few distinct subjects, the encoder memorises them and does not generalise to new ones.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Collects the words of the examples' subjects; invented names are made of them."""
        self._words = sorted({word for example in examples for word in example.subject.split()})

    def with_invented_subject(self, example: Example, rng: random.Random) -> Example:
        """The same fact about an invented subject.

        The prompts of the true subject become locality prompts. An example is returned unchanged
        if one of its texts does not contain the subject.
        """
        texts = (example.prompt, *example.rephrases)
        if not all(example.subject in text for text in texts):
            return example
        name = " ".join(rng.choice(self._words) for _ in range(rng.choice((1, 2, 2, 3))))
        prompt, *rephrases = (text.replace(example.subject, name) for text in texts)
        original = (rng.choice(texts), example.target)
        return replace(
            example,
            prompt=prompt,
            subject=name,
            rephrases=tuple(rephrases),
            locality=(*example.locality, *[original] * len(example.locality)),
        )


class Borrower:
    """Replaces rephrases by those of other facts of the same relation: one per fact is few."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Collects the rephrases that contain their subject."""
        self._frames = frames_of(examples)

    def with_borrowed_rephrase(self, example: Example, rng: random.Random) -> Example:
        """The same fact with another fact's rephrase; unchanged if there is none."""
        others = self._frames.rephrases(example.prompt, example.subject, 1, rng)
        return replace(example, rephrases=others) if others else example


class Digresser:
    """Makes locality prompts that ask for another relation of the fact's own subject.

    The locality prompts of common data sets name other subjects. A retriever trained on those
    alone claims every prompt that names the subject of an edit.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Collects the examples' relations: prompts without their subjects, and their targets."""
        self._frames = frames_of(examples)
        targets: dict[str, set[str]] = {frame: set() for frame in self._frames.by_prompt}
        for example in examples:
            if (frame := Frames.frame(example.prompt, example.subject)) in targets:
                targets[frame].add(example.target)
        self._others = {
            frame: [
                other
                for other, theirs in sorted(targets.items())
                if len(own & theirs) <= _MOST_SHARED * min(len(own), len(theirs))
            ]
            for frame, own in targets.items()
        }

    def with_digression(self, example: Example, rng: random.Random) -> Example:
        """The same fact with such a locality prompt; unchanged if its relation occurs only once.

        Two relations count as different if they have almost no target in common.
        """
        others = self._others.get(Frames.frame(example.prompt, example.subject), ())
        if not others:
            return example
        prompt = Frames.filled(rng.choice(others), example.subject)
        wordings = (prompt, *self._frames.rephrases(prompt, example.subject, 1, rng))
        return replace(example, locality=((rng.choice(wordings), example.target),))


class Answerer:
    """Replaces targets by other words, so that MLP_P learns to produce any word.

    Training data have few distinct targets; MLP_P would not generalise to a new one.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Collects the frequent words of the examples' texts."""
        texts = [t for e in examples for t in (e.prompt, *e.rephrases, *e.locality[0])]
        words = Counter(word.strip(_PUNCTUATION) for text in texts for word in text.split())
        self._words = sorted(w for w, n in words.items() if w.isalpha() and n >= _FEWEST_TIMES)

    def with_other_target(self, example: Example, rng: random.Random) -> Example:
        """The same prompts with a random word as the target."""
        return replace(example, target=rng.choice(self._words)) if self._words else example
