"""Reads off prompts which edits of the weights shape their answers, as AdaPLE attributes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_gather

from errata.editing.adaple.attribution import Directions, responses


@dataclass(frozen=True, eq=False, slots=True)
class Ear:
    """One probe in a worker.

    Attributes:
        number: of the probe in its request.
        layer: whose down projection's input is read.
        directions: of its edits.
        threshold: minimum of the product.
    """

    number: int
    layer: int
    directions: Directions
    threshold: float


@dataclass(frozen=True, eq=False, slots=True)
class ListeningRows:
    """The prompts' tokens of one step that are listened to; all rows have the same ears.

    Attributes:
        ears: of the rows.
        keys: what the rows' hits are kept under.
        tokens: (n,) int64, flat.
        row_of: (n,) int64, numbers of `keys`.
    """

    ears: tuple[Ear, ...]
    keys: tuple[str, ...]
    tokens: Tensor
    row_of: Tensor


class Listener:
    """Collects the hits of requests until they are fetched."""

    def __init__(self, num_ranks: int) -> None:
        """Nothing is heard.

        Args:
            num_ranks: of tensor parallelism.
        """
        self._num_ranks = num_ranks
        self._now: tuple[ListeningRows, ...] = ()
        self._hits: dict[str, set[tuple[int, int]]] = {}
        self._fetched: set[str] = set()  # of requests that still have a row

    def follow(self, rows: tuple[ListeningRows, ...]) -> None:
        """Listens to these rows in the passes that follow."""
        self._now = rows

    def fetch(self, keys: Sequence[str], active: Collection[str]) -> dict[str, list[list[int]]]:
        """The hits of requests, as pairs (probe, edit); they are forgotten.

        Args:
            keys: of the requests.
            active: keys of requests with a row. A row that vLLM preempts reads its prompt again;
                what was fetched is not noted a second time.
        """
        self._fetched |= set(keys) & set(active)
        return {key: [list(pair) for pair in sorted(self._hits.pop(key, ()))] for key in keys}

    def end(self, key: str) -> None:
        """The request has no row any more."""
        self._fetched.discard(key)

    def hear(self, layer: int, inputs: Tensor) -> None:
        """Compares with the layer's ears.

        Args:
            layer: of the FFN.
            inputs: (n, d_ff), of its down projection; d_ff counts the rank's neurons.
        """
        for rows in self._now:
            for ear in rows.ears:
                if ear.layer == layer:
                    x = inputs.index_select(0, rows.tokens)
                    if self._num_ranks > 1:
                        x = tensor_model_parallel_all_gather(x, dim=-1)
                    self._note(rows, ear, x)

    def _note(self, rows: ListeningRows, ear: Ear, x: Tensor) -> None:
        for row, edit in responses(x, rows.row_of, ear.directions, ear.threshold):
            if rows.keys[row] not in self._fetched:
                self._hits.setdefault(rows.keys[row], set()).add((ear.number, edit))
