"""The factory of the indices that lanes search in; a setting chooses the kind."""

from __future__ import annotations

from collections.abc import Mapping

from errata.errors import InvalidRequestError
from errata.indices.codes import CodeIndex
from errata.indices.gpu import GpuRows, has_gpu
from errata.indices.graph import Graph
from errata.indices.inner_product import APPROXIMATE_FROM, KeyIndex, MakeFirstPass
from errata.indices.lists import Lists

FIRST_PASSES: Mapping[str, MakeFirstPass | None] = {
    "exact": None,
    "lists": Lists,
    "graph": Graph,
    "gpu": GpuRows,
}
"""How each kind makes its first pass."""

AUTO = "auto"


class FaissIndices:
    """Makes indices of one kind."""

    def __init__(self, kind: str = AUTO, approximate_from: int = APPROXIMATE_FROM) -> None:
        """Chooses what searches keys.

        Args:
            kind: `exact`, `lists`, `graph` or `gpu`; `auto` is `gpu` where FAISS sees a GPU, else
                `lists`.
            approximate_from: number of edits from which a first pass is used.

        Raises:
            InvalidRequestError: there is no such kind, or FAISS sees no GPU.
        """
        if kind == AUTO:
            kind = "gpu" if has_gpu() else "lists"
        if kind not in FIRST_PASSES:
            raise InvalidRequestError(
                f"there is no index {kind!r}; choose one of {', '.join((AUTO, *FIRST_PASSES))}.",
                field="index",
            )
        if kind == "gpu" and not has_gpu():
            raise InvalidRequestError(
                "index `gpu` needs faiss-gpu and a GPU, and FAISS sees none here; install "
                "faiss-gpu in place of faiss-cpu, or use `auto`.",
                field="index",
            )
        self.kind = kind
        self._approximate_from = approximate_from

    def inner_product(self) -> KeyIndex:
        """An empty index of keys."""
        return KeyIndex(FIRST_PASSES[self.kind], self._approximate_from)

    def hamming(self) -> CodeIndex:
        """An empty index of allocation codes."""
        return CodeIndex()
