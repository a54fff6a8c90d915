"""The index follows snapshots: rows that come, rows that are taken back, other lineages."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from errata.editing.lane.search import Lineage
from errata.indices.codes import CodeIndex
from errata.indices.exact import nearest_by_product
from errata.indices.inner_product import KeyIndex


@dataclass
class Snapshot:
    keys: Tensor
    lineage: Lineage = field(default_factory=Lineage)


def _best(keys: Tensor, queries: Tensor) -> list[int]:
    return (queries @ keys.T).argmax(dim=1).tolist()


def test_the_index_finds_what_a_product_finds_as_rows_come_and_go() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(60, 8), torch.randn(30, 8)
    index, lineage = KeyIndex(), Lineage()
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
    index = KeyIndex()
    index.nearest(Snapshot(keys), queries, 1)
    other = keys.flip(0).contiguous()
    assert index.nearest(Snapshot(other), queries, 1)[:, 0].tolist() == _best(other, queries)


def test_where_there_are_fewer_rows_than_asked_for_the_rest_is_none() -> None:
    found = KeyIndex().nearest(Snapshot(torch.eye(2, 4)), torch.eye(1, 4), 3)
    assert found.tolist() == [[0, 1, -1]]


def test_a_product_on_the_keys_own_device_finds_the_same() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(60, 8), torch.randn(30, 8)
    expected = KeyIndex().nearest(Snapshot(keys), queries, 4)
    assert torch.equal(nearest_by_product(keys, queries, 4), expected)
    assert nearest_by_product(torch.eye(2, 4), torch.eye(1, 4), 3).tolist() == [[0, 1, -1]]


def test_older_snapshots_are_searched() -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(50, 8), torch.randn(30, 8)
    index, lineage = KeyIndex(), Lineage()
    index.nearest(Snapshot(keys, lineage), queries, 1)
    old = Snapshot(keys[:20], lineage)
    assert index.nearest(old, queries, 1)[:, 0].tolist() == _best(keys[:20], queries)


def test_the_nearest_code_is_exact_and_the_newest_of_equal_ones() -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 4, (500, 3), dtype=torch.uint8)  # few values: many equal distances
    queries = torch.randint(0, 256, (64, 3), dtype=torch.uint8)
    index = CodeIndex()
    for stored in (codes, codes[:10].contiguous(), codes):
        distances, rows = index.nearest(stored, queries)
        for query, distance, row in zip(queries, distances.tolist(), rows.tolist(), strict=True):
            bits = torch.bitwise_xor(stored, query).tolist()
            all_distances = [sum(byte.bit_count() for byte in code) for code in bits]
            assert distance == min(all_distances)
            assert row == max(i for i, d in enumerate(all_distances) if d == distance)


def test_codes_are_searched_exactly_among_many() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**48, 20_000, dtype=np.uint64)
    queries = rng.integers(0, 2**48, 16, dtype=np.uint64)

    def packed(words: npt.NDArray[np.uint64]) -> torch.Tensor:
        return torch.from_numpy(words.view(np.uint8).reshape(-1, 8)[:, :6].copy())

    index = CodeIndex()
    for stored in (codes, codes[:7_000]):  # the second time most of them are gone
        distances, rows = index.nearest(packed(stored), packed(queries))
        expected = np.bitwise_count(stored ^ queries[:, None])
        assert distances.tolist() == expected.min(1).tolist()
        assert [int(row) for row in rows] == [
            int(np.flatnonzero(each == each.min())[-1]) for each in expected
        ]
