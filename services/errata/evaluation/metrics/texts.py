"""Fluency and consistency of generated texts, after MEMIT's authors.

Fluency is ½(⅔H₂ + 4/3·H₃)·100 with the entropies, in bits, of a text's bigrams and trigrams of
words: repetition lowers it. Consistency is 100 times the cosine between the TF-IDF vectors of the
generated text and of reference texts about the new answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer

_WORD = re.compile(r"\w+|[^\w\s]")


def ngram_entropy(text: str, n: int) -> float:
    """Entropy in bits of the text's n-grams of words; 0 for a text with fewer than n words."""
    words = _WORD.findall(text)
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def fluency(text: str) -> float:
    """½(⅔H₂ + 4/3·H₃)·100."""
    return 50.0 * (2 / 3 * ngram_entropy(text, 2) + 4 / 3 * ngram_entropy(text, 3))


class Consistency:
    """TF-IDF over the reference texts of a data set."""

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        """Counts words and document frequencies in all reference texts.

        Args:
            references: target → texts about it.
        """
        self._vectorizer = TfidfVectorizer()
        self._vectorizer.fit([text for texts in references.values() for text in texts])
        self._references = {target: " ".join(texts) for target, texts in references.items()}

    def __call__(self, generated: str, target: str) -> float | None:
        """100 · cosine; None if there is no reference text about the target."""
        if target not in self._references:
            return None
        # Rows have unit length, so their product is the cosine.
        rows = self._vectorizer.transform([generated, self._references[target]])
        return 100.0 * float((rows[0] @ rows[1].T).toarray()[0, 0])
