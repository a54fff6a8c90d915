"""What a lane needs: bytes and operations, computed from configurations before anything runs.

Symbols of the formulas, in every slice's `needs.py`:

| symbol | meaning |
|---|---|
| N, u, c | edits in force; edits of a fit; commits, ⌈N/u⌉ |
| P, b | parameters of the LLM; bytes of one number of its weights |
| d, d_ff, V | width; width of the FFN; token ids |
| L | layers that the lane edits |
| T, t | tokens of a training text; tokens of its target |
| d_r | width of keys and queries of a lane model |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from errata.editing.lane.inventory import FACT_BYTES
from errata.editing.lane.repository import room_after

Place = Literal["device", "host", "disk"]
"""Memory of the LLM's device, memory of the host, or a file; on a CPU the first two are one."""

During = Literal["", "start", "statistics", "fit", "commit", "request"]
"""While what runs; empty for all the time."""

FP32, FP64, INT32, INT64 = 4, 8, 4, 8

BOOKKEEPING_BYTES = 750
"""Python objects of one row of a repository: its name, its fact and three dictionaries' entries.

Measured with tracemalloc, which `tests/unit/editing/test_needs.py` repeats.
"""

TEXT_TOKEN_BYTES = 40
"""One token id in a tuple of Python's integers: 8 bytes of reference and 32 of number."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that one thing takes.

    Attributes:
        name: of the thing.
        num_bytes: how many.
        formula: how they are computed, in the module's symbols.
        place: where they are.
        during: they are taken only meanwhile: `start`, `statistics`, `fit`, `commit` or `request`;
            empty if they are taken all the time.
        is_estimate: the formula leaves something out, or assumes something; else tensors have
            exactly this size.
    """

    name: str
    num_bytes: int
    formula: str
    place: Place = "device"
    during: During = ""
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations, of which a product and its addition are two. Not a time.

    Attributes:
        name: of what is computed.
        operations: how many.
        formula: how they are counted, in the module's symbols.
    """

    name: str
    operations: int
    formula: str


@dataclass(frozen=True, slots=True)
class Searched:
    """What a lane's indices search.

    Attributes:
        num_keys: vectors.
        key_width: their width; 0 if the lane searches none.
        code_bytes: bytes of an allocation code; 0 without codes.
    """

    num_keys: int
    key_width: int
    code_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EditLoad:
    """The edits that a lane is planned for, and how they arrive.

    Attributes:
        num_edits: N, of different facts, all in force.
        batch_edits: u, edits of a fit; methods that gather windows have their own number.
        text_tokens: T, tokens of an edit's prompt with its target.
        target_tokens: t, those of the target.
        num_rephrases: rephrases that come with an edit.
        device: kind of the LLM's device, `cpu` or `cuda`.
        has_fast_bf16: whether the device multiplies in bf16 faster than in fp32.
        lane_model: folder of the lane model; None plans for one that would be trained with the
            defaults.
        history: log positions for which a retrieval service can decide.
        rows: generations that run at once in a worker.
    """

    num_edits: int
    batch_edits: int
    text_tokens: int = 32
    target_tokens: int = 4
    num_rephrases: int = 2
    device: str = "cpu"
    has_fast_bf16: bool = False
    lane_model: Path | None = None
    history: int = 256
    rows: int = 16

    def num_commits(self, batch: int) -> int:
        """c, the commits of all edits in full batches."""
        return math.ceil(self.num_edits / batch)

    def num_kept(self, batch: int) -> int:
        """Commits among the positions of a retrieval service's history.

        Every edit comes in a request of its own, so that a commit takes u + 1 positions.
        """
        return min(math.ceil(self.history / (batch + 1)), self.num_commits(batch))


@dataclass(frozen=True, slots=True)
class LaneNeeds:
    """What one lane needs, by process.

    Attributes:
        replica: in every process with the LLM, the writer included.
        writer: in the writer, in addition.
        retrieval: in a process without the LLM; None if the lane cannot be there.
        effects: in a worker, for the rows that run.
        store: files of its commits.
        batch: edits of a commit.
        searched: by its indices.
        work: operations of fits and requests.
        warnings: about the lane and this number of edits.
        matrices: edited matrices in the LLM's dtype, bytes; 0 if the lane changes no weights.
    """

    replica: tuple[Need, ...]
    writer: tuple[Need, ...]
    retrieval: tuple[Need, ...] | None
    effects: tuple[Need, ...]
    store: tuple[Need, ...]
    batch: int
    searched: Searched
    work: tuple[Work, ...]
    warnings: tuple[str, ...] = ()
    matrices: int = 0

    def versions(self, count: int) -> list[Need]:
        """Older versions of the edited matrices, while rows still run with them.

        Args:
            count: versions that can serve rows at once.
        """
        if not self.matrices or count < 2:
            return []
        size = (count - 1) * self.matrices
        return [
            Need("older versions of weights", size, "(versions − 1)·L·d·d_ff·b", during="request")
        ]


def repository_needs(load: EditLoad, batch: int, key_width: int, value_numbers: int) -> list[Need]:
    """Rows of a lane that routes: `editing.lane.repository.Repository`.

    C rows have room, C = max(64, 2n) at the last time that there was no room for n rows; each has
    a key and a value in fp32: C·4(w + v). A new room is filled while the old one exists.

    Args:
        load: the edits.
        batch: rows of a commit.
        key_width: w.
        value_numbers: v, numbers in a value.
    """
    room = room_after(load.num_edits, batch)
    row = FP32 * (key_width + value_numbers)
    return [
        Need("keys and values", room * row, "C·4(w + v)"),
        Need("growth of keys and values", load.num_edits * row, "N·4(w + v)", during="commit"),
        Need(
            "names and facts",
            load.num_edits * BOOKKEEPING_BYTES,
            f"N·{BOOKKEEPING_BYTES}",
            "host",
            is_estimate=True,
        ),
    ]


def row_store(load: EditLoad, key_width: int, value_numbers: int) -> Need:
    """Rows in artifacts (`editing.lane.row_format`): key, value and 32 bytes of fact."""
    row = FP32 * (key_width + value_numbers) + FACT_BYTES
    return Need("rows in artifacts", load.num_edits * row, "N(4(w + v) + 32)", "disk")


def header_store(num_commits: int, metadata_bytes: int) -> Need:
    """Headers of c artifacts: names and shapes of tensors, and `metadata_bytes` of text each."""
    return Need(
        "headers of artifacts",
        num_commits * metadata_bytes,
        f"c·{metadata_bytes:,}",
        "disk",
        is_estimate=True,
    )
