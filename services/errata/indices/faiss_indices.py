"""Makes the FAISS indices that lanes search in."""

from __future__ import annotations

from errata.indices.codes import CodeIndex
from errata.indices.inner_product import APPROXIMATE_FROM, KeyIndex


class FaissIndices:
    """Makes FAISS indices."""

    def __init__(self, approximate_from: int = APPROXIMATE_FROM) -> None:
        """Makes indices for lanes of any size.

        Args:
            approximate_from: number of edits from which searches are approximate.
        """
        self._approximate_from = approximate_from

    def inner_product(self) -> KeyIndex:
        """An empty index of keys."""
        return KeyIndex(self._approximate_from)

    def hamming(self) -> CodeIndex:
        """An empty index of allocation codes."""
        return CodeIndex()
