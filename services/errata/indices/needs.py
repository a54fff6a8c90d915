"""What the FAISS indices of a lane need."""

from __future__ import annotations

import math

from errata.editing.lane.needs import FP32, INT64, Need, Searched
from errata.indices.codes import KEPT_CODES
from errata.indices.inner_product import APPROXIMATE_FROM
from errata.indices.lists import CODE_BYTES, ROWS_PER_LIST, WIDTH


def index_needs(searched: Searched, device: str) -> list[Need]:
    """Codes of the keys from `APPROXIMATE_FROM` on, and the codes of the most recent snapshots.

    Fewer keys are searched where the repository holds them, and so are keys on a GPU. What is said
    here of a host without a GPU for FAISS is what `index=auto` takes; a graph takes about seven
    times as much.

    Args:
        searched: of the lane.
        device: kind of the device of the keys, `cpu` or `cuda`.
    """
    n, width = searched.num_keys, searched.key_width
    found = []
    if width and device == "cpu" and n >= APPROXIMATE_FROM:
        projected = min(WIDTH, width)
        lists = APPROXIMATE_FROM // ROWS_PER_LIST
        size = n * (CODE_BYTES + INT64) + lists * projected * FP32
        found.append(Need("lists of keys", size, "N(32 + 8) + lists·4·128", "host"))
    if searched.code_bytes:
        words = 8 * math.ceil(searched.code_bytes / 8)
        found.append(Need("indices of codes", KEPT_CODES * n * 2 * words, "4·N·2·8·words", "host"))
    return found
