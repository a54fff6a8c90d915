"""The index follows snapshots: rows that come, rows that are taken back, other lineages."""

import gc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from errata.editing.search import Lineage
from errata.retrieval.index import FlatIndex


@dataclass
class Snapshot:
    keys: Tensor
    lineage: Lineage = field(default_factory=Lineage)


def _best(keys: Tensor, queries: Tensor) -> list[int]:
    return (queries @ keys.T).argmax(dim=1).tolist()


def test_the_index_finds_what_a_product_finds_as_rows_come_and_go() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(60, 8), torch.randn(30, 8)
    index, lineage = FlatIndex(), Lineage()
    for size in (10, 40):
        found = index.nearest(Snapshot(keys[:size], lineage), queries, 1)
        assert found[:, 0].tolist() == _best(keys[:size], queries)
    # ten rows are taken back, and others of the same number take their places
    lineage.cuts.append(30)
    now = torch.cat([keys[:30], keys[50:60]])
    found = index.nearest(Snapshot(now, lineage), queries, 1)
    assert found[:, 0].tolist() == _best(now, queries)
    assert _best(now, queries) != _best(keys[:40], queries), "else stale rows would pass"
    # cuts that came between two calls all count, the deepest first
    lineage.cuts += [5, 20]
    now = torch.cat([keys[:5], keys[40:60]])
    found = index.nearest(Snapshot(now, lineage), queries, 1)
    assert found[:, 0].tolist() == _best(now, queries)


def test_another_lineage_is_indexed_afresh() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(20, 8), torch.randn(30, 8)
    index = FlatIndex()
    index.nearest(Snapshot(keys), queries, 1)
    other = keys.flip(0).contiguous()
    assert index.nearest(Snapshot(other), queries, 1)[:, 0].tolist() == _best(other, queries)


def test_where_there_are_fewer_rows_than_asked_for_the_rest_is_none() -> None:
    found = FlatIndex().nearest(Snapshot(torch.eye(2, 4)), torch.eye(1, 4), 3)
    assert found.tolist() == [[0, 1, -1]]


def test_older_snapshots_are_searched_and_forgotten_lineages_freed() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(50, 8), torch.randn(30, 8)
    index, lineage = FlatIndex(), Lineage()
    index.nearest(Snapshot(keys, lineage), queries, 1)
    old = Snapshot(keys[:20], lineage)
    assert index.nearest(old, queries, 1)[:, 0].tolist() == _best(keys[:20], queries)
    index.nearest(Snapshot(keys.flip(0).contiguous()), queries, 1)
    gc.collect()
    assert list(index._known) == [lineage]
