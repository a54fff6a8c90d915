"""What the FAISS indices of a lane need."""

from __future__ import annotations

import math

from errata.editing.lane.needs import FP32, INT64, Need, Searched
from errata.indices.codes import KEPT_CODES
from errata.indices.inner_product import APPROXIMATE_FROM, ROWS_PER_LIST


def index_needs(searched: Searched, device: str) -> list[Need]:
    """A copy of the keys, and of the codes of the most recent snapshots.

    On a GPU, keys are searched where the repository holds them. From `APPROXIMATE_FROM` keys on,
    inverted lists hold each key with an 8-byte number, and the lists' centroids; while they are
    made, the exact index and a copy of the keys exist, too.

    Args:
        searched: of the lane.
        device: kind of the device of the keys, `cpu` or `cuda`.
    """
    n, width = searched.num_keys, searched.key_width
    found = []
    if width and device == "cpu":
        keys = n * width * FP32
        if n < APPROXIMATE_FROM:
            found.append(Need("index of keys", keys, "N·4·w", "host"))
        else:
            lists = APPROXIMATE_FROM // ROWS_PER_LIST
            size = keys + n * INT64 + lists * width * FP32
            found += [
                Need("inverted lists of keys", size, "N(4·w + 8) + lists·4·w", "host"),
                Need("making inverted lists", 2 * keys, "2·N·4·w", "host", during="request"),
            ]
    if searched.code_bytes:
        words = 8 * math.ceil(searched.code_bytes / 8)
        found.append(Need("indices of codes", KEPT_CODES * n * 2 * words, "4·N·2·8·words", "host"))
    return found
