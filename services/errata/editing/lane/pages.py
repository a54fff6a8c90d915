"""Tables of tensors that are cut into pages, so that a table that grew shares pages with its past.

A page ends where the hash of an item says so, and nothing else: an item that is added or removed
changes the page that it is in, and no other. Equal pages have equal bytes, hence equal digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, tensor_bytes
from errata.errors import ArtifactCorruptError

PAGE_ITEMS = 512
"""Items of an average page."""
PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of an average page of large items."""
_MAX_PAGES = 8  # no page is longer than so many average ones


@dataclass(frozen=True, eq=False, slots=True)
class LaneTable:
    """Tensors of a lane, and which of them belong to single items.

    Attributes:
        edits: the items of `rows`, in order.
        artifact: all tensors, and metadata.
        rows: names of the tensors whose first dimension is that of `edits`.
        units: beginning of the names of tensors that come in numbered units, `{units}{n}.{name}`
            with n from 0; empty if there are none.
    """

    edits: tuple[str, ...]
    artifact: Artifact
    rows: frozenset[str] = field(default_factory=frozenset)
    units: str = ""


def page_ends(items: Iterable[tuple[bytes, int]]) -> Iterator[int]:
    """Where the pages of a sequence end; the last end is the number of items.

    Args:
        items: the identity and the size in bytes of each item.
    """
    count = in_page = num_bytes = 0
    for identity, size in items:
        count, in_page, num_bytes = count + 1, in_page + 1, num_bytes + size
        chance = max(1 / PAGE_ITEMS, size / PAGE_BYTES)
        drawn = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") / 2**64
        is_long = in_page >= _MAX_PAGES * PAGE_ITEMS or num_bytes >= _MAX_PAGES * PAGE_BYTES
        if drawn < chance or is_long:
            yield count
            in_page = num_bytes = 0
    if in_page:
        yield count


def cut(table: LaneTable) -> Iterator[Artifact]:
    """The pages of a table; `join` makes an equal table of them."""
    tensors = table.artifact.tensors
    in_units = {name for name in tensors if table.units and name.startswith(table.units)}
    shared = {n: t for n, t in tensors.items() if n not in table.rows and n not in in_units}
    about = {
        "page": "shared",
        "metadata": json.dumps(table.artifact.metadata, sort_keys=True),
        "rows": json.dumps(sorted(table.rows)),
        "units": table.units,
    }
    yield Artifact(shared, about)
    if table.rows:
        yield from _row_pages(table)
    if table.units:
        yield from _unit_pages(units_of(table))


def join(pages: Sequence[Artifact]) -> LaneTable:
    """The table that `cut` cut.

    Raises:
        ArtifactCorruptError: these are not the pages of a table.
    """
    try:
        return _joined(pages)
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError) as error:
        raise ArtifactCorruptError(
            f"the pages of a snapshot do not belong together ({type(error).__name__})."
        ) from error


def units_of(table: LaneTable) -> list[dict[str, Tensor]]:
    """The tensors of each unit of a table, by their own names, in order."""
    units: dict[int, dict[str, Tensor]] = {}
    for name, tensor in table.artifact.tensors.items():
        if table.units and name.startswith(table.units):
            number, _, own = name.removeprefix(table.units).partition(".")
            units.setdefault(int(number), {})[own] = tensor
    return [units[number] for number in sorted(units)]


def _row_pages(table: LaneTable) -> Iterator[Artifact]:
    rows = {name: table.artifact.tensors[name] for name in sorted(table.rows)}
    size = sum(row[0].numel() * row.element_size() for row in rows.values() if len(row))
    ends = list(page_ends((name.encode(), size) for name in table.edits)) or [0]
    start = 0
    for end in ends:
        edits = json.dumps(list(table.edits[start:end]))
        part = {name: tensor[start:end] for name, tensor in rows.items()}
        yield Artifact(part, {"page": "rows", "edits": edits})
        start = end


def _unit_pages(ordered: Sequence[dict[str, Tensor]]) -> Iterator[Artifact]:
    start = 0
    for end in page_ends(_identified(unit) for unit in ordered):
        part = {
            f"{number}.{name}": tensor
            for number, unit in enumerate(ordered[start:end])
            for name, tensor in unit.items()
        }
        yield Artifact(part, {"page": "units", "count": str(end - start)})
        start = end


def _identified(unit: dict[str, Tensor]) -> tuple[bytes, int]:
    state, size = hashlib.sha256(), 0
    for name, tensor in sorted(unit.items()):
        data = tensor_bytes(tensor)
        state.update(name.encode())
        state.update(data)
        size += data.nbytes
    return state.digest(), size


def _joined(pages: Sequence[Artifact]) -> LaneTable:
    first = pages[0]
    if first.metadata["page"] != "shared":
        raise ValueError("the first page must be the shared one")
    names, prefix = json.loads(first.metadata["rows"]), first.metadata["units"]
    tensors, edits = dict(first.tensors), list[str]()
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    count = 0
    for page in pages[1:]:
        if page.metadata["page"] == "units":
            for name, tensor in page.tensors.items():
                number, _, own = name.partition(".")
                tensors[f"{prefix}{count + int(number)}.{own}"] = tensor
            count += int(page.metadata["count"])
            continue
        found = json.loads(page.metadata["edits"])
        for name, parts in rows.items():
            if len(page.tensors[name]) != len(found):
                raise ValueError("a page must have a row for each edit")
            parts.append(page.tensors[name])
        edits += found
    tensors |= {name: torch.cat(parts) for name, parts in rows.items()}
    artifact = Artifact(tensors, json.loads(first.metadata["metadata"]))
    return LaneTable(tuple(edits), artifact, frozenset(names), prefix)
