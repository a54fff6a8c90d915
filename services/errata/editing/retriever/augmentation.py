"""Changes of training facts that make the few that there are teach more. Ours."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from errata.editing.retriever.examples import Example, frames_of
from errata.editing.retriever.frames import Frames

_FEWEST_TIMES = 4  # that a word occurs: the LLM can hardly say rarer ones
_PUNCTUATION = ".,:;!?()\"'"
_MOST_SHARED = 0.1  # of two relations' targets, if they are taken for different ones


class Inventor:
    """Puts made-up names in place of subjects, so that the encoder learns to compare names.

    With few subjects it would rather learn each of them by heart, and know no new one. Ours.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the words that names are made of from the examples' subjects."""
        self._words = sorted({word for example in examples for word in example.subject.split()})

    def retold(self, example: Example, rng: random.Random) -> Example:
        """The same fact about somebody who does not exist.

        The true subject's own prompt is then one that the fact must not touch. An example whose
        texts do not all name their subject stays as it is.
        """
        texts = (example.prompt, *example.rephrases)
        if not all(example.subject in text for text in texts):
            return example
        name = " ".join(rng.choice(self._words) for _ in range(rng.choice((1, 2, 2, 3))))
        prompt, *rephrases = (text.replace(example.subject, name) for text in texts)
        touched = (rng.choice(texts), example.target)
        return replace(
            example,
            prompt=prompt,
            subject=name,
            rephrases=tuple(rephrases),
            locality=(*example.locality, *[touched] * len(example.locality)),
        )


class Borrower:
    """Asks about a fact as others of its relation are asked: one rephrase each is few. Ours."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the rephrases that name their subject."""
        self._frames = frames_of(examples)

    def asked(self, example: Example, rng: random.Random) -> Example:
        """The same fact with the rephrase of another one; as it is if there is no other."""
        others = self._frames.rephrases(example.prompt, example.subject, 1, rng)
        return replace(example, rephrases=others) if others else example


class Digresser:
    """Asks something else about a fact's subject, which the fact must not touch. Ours.

    Data name other subjects in their locality prompts; a retriever that learns from those alone
    claims whatever names the subject of an edit.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the examples' relations: prompts without their subjects, and what they ask for."""
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

    def asked_else(self, example: Example, rng: random.Random) -> Example:
        """The same fact with such a locality prompt; as it is if its relation was met once only.

        Relations are taken for different ones if they hardly share a target.
        """
        others = self._others.get(Frames.frame(example.prompt, example.subject), ())
        if not others:
            return example
        prompt = Frames.filled(rng.choice(others), example.subject)
        ways = (prompt, *self._frames.rephrases(prompt, example.subject, 1, rng))
        return replace(example, locality=((rng.choice(ways), example.target),))


class Answerer:
    """Gives facts other answers, so that MLP_P learns to say any word, not those of the data. Ours.

    Training data have few distinct targets; a target that is not among them would be said wrong.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the words that answers are made of from the examples' texts."""
        texts = [t for e in examples for t in (e.prompt, *e.rephrases, *e.locality[0])]
        words = Counter(word.strip(_PUNCTUATION) for text in texts for word in text.split())
        self._words = sorted(w for w, n in words.items() if w.isalpha() and n >= _FEWEST_TIMES)

    def answered(self, example: Example, rng: random.Random) -> Example:
        """The same fact with a word for an answer."""
        return replace(example, target=rng.choice(self._words)) if self._words else example
