"""First pass on a GPU that only FAISS uses: all keys, searched exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from torch import Tensor

_FP32_BYTES = 4
_MOST_PROPOSED = 2_048  # FAISS's limit on a GPU


def has_gpu() -> bool:
    """Whether faiss-gpu is installed and sees a GPU; faiss-cpu never does."""
    return bool(hasattr(faiss, "index_cpu_to_gpu") and faiss.get_num_gpus())


def to_first_gpu(index: Any) -> Any:
    """The index on the first GPU, which its memory then also holds."""
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


class GpuRows:
    """A copy of all keys on a GPU. GPU indices neither forget rows nor search a part of them."""

    num_proposed = 16

    def __init__(self, first: Tensor, to_gpu: Callable[[Any], Any] = to_first_gpu) -> None:
        """Adds none of the rows.

        Args:
            first: (m, d) fp32, the lineage's first rows.
            to_gpu: brings an index to the GPU.
        """
        self._index = to_gpu(faiss.IndexFlatIP(first.shape[1]))

    @property
    def num_bytes(self) -> int:
        """As `FirstPass.num_bytes`; on the GPU."""
        return int(self._index.ntotal) * int(self._index.d) * _FP32_BYTES

    def add(self, keys: Tensor) -> None:
        """As `FirstPass.add`."""
        self._index.add(keys.detach().contiguous().numpy())

    def cut(self, num_rows: int) -> bool:
        """As `FirstPass.cut`; never possible."""
        return False

    def propose(self, queries: Tensor, count: int, num_rows: int | None) -> Any:
        """As `FirstPass.propose`; None for a snapshot with too many newer rows to search past."""
        newer = 0 if num_rows is None else int(self._index.ntotal) - num_rows
        if count + newer > _MOST_PROPOSED:
            return None
        vectors = queries.detach().cpu().contiguous().numpy()
        found = self._index.search(vectors, count + newer)[1]
        return found if num_rows is None else np.where(found < num_rows, found, -1)
