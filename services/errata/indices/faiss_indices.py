"""Makes the FAISS indices that lanes search in."""

from __future__ import annotations

from errata.indices.codes import CodeIndex
from errata.indices.inner_product import APPROXIMATE_FROM, KeyIndex


class FaissIndices:
    """Makes FAISS indices."""

    def __init__(self, approximate_from: int = APPROXIMATE_FROM) -> None:
        """For lanes of any size.

        Args:
            approximate_from: number of edits from which a search may miss the best one.
        """
        self._approximate_from = approximate_from

    def inner_product(self) -> KeyIndex:
        """An empty one."""
        return KeyIndex(self._approximate_from)

    def hamming(self) -> CodeIndex:
        """An empty one."""
        return CodeIndex()
