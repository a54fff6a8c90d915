"""First passes: what they propose holds the best rows, and follows snapshots like all rows do."""

import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from errata.editing.lane.search import Lineage
from errata.errors import InvalidRequestError
from errata.indices import faiss_indices
from errata.indices.exact import nearest_of
from errata.indices.faiss_indices import FIRST_PASSES, FaissIndices
from errata.indices.first_pass import FirstPass
from errata.indices.gpu import GpuRows
from errata.indices.graph import Graph
from errata.indices.inner_product import KeyIndex
from errata.indices.lists import Lists

MakeFirstPass = Callable[[Tensor], FirstPass]


def on_cpu(first: Tensor) -> GpuRows:
    """The GPU's index where there is none: the same class of FAISS, on the CPU."""
    return GpuRows(first, to_gpu=lambda index: index)


KINDS = [Lists, Graph, on_cpu]


@dataclass
class Snapshot:
    keys: Tensor
    lineage: Lineage = field(default_factory=Lineage)


def clustered(number: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys in clusters, and queries near some of them."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(50, width, generator=generator)
    own = torch.randint(50, (number,), generator=generator)
    keys = centres[own] + 0.4 * torch.randn(number, width, generator=generator)
    near = keys[:: max(1, number // 300)]
    return keys, near + 0.1 * torch.randn(near.shape, generator=generator)


def best_of(keys: Tensor, queries: Tensor) -> Tensor:
    return (queries @ keys.T).argmax(dim=1)


def found_share(index: KeyIndex, rows: Snapshot, queries: Tensor) -> float:
    found = index.nearest(rows, queries, 4)
    return float((found == best_of(rows.keys, queries)[:, None]).any(dim=1).float().mean())


def made(make: MakeFirstPass, rows: Snapshot, approximate_from: int) -> KeyIndex:
    """An index whose first pass of these rows is in use."""
    index = KeyIndex(make, approximate_from)
    index.nearest(rows, rows.keys[:1], 1)
    index.wait_until_made()
    index.nearest(rows, rows.keys[:1], 1)
    (known,) = index._known.values()
    assert known.first_pass is not None
    return index


@pytest.mark.parametrize("make", [Lists, on_cpu])
def test_nearly_all_best_rows_are_found_among_many(make: MakeFirstPass) -> None:
    keys, queries = clustered(20_000, 32)
    rows = Snapshot(keys)
    assert found_share(made(make, rows, 5_000), rows, queries) >= 0.95


def test_a_graph_finds_nearly_all_best_rows() -> None:
    keys, queries = clustered(3_000, 32)
    rows = Snapshot(keys)
    assert found_share(made(Graph, rows, 1_000), rows, queries) >= 0.95


@pytest.mark.parametrize("make", KINDS)
def test_a_first_pass_follows_rows_that_come_and_go(make: MakeFirstPass) -> None:
    keys, queries = clustered(2_000, 32)
    lineage = Lineage()
    assert found_share(KeyIndex(make, 1_000), Snapshot(keys[:900], lineage), queries) == 1.0, "few"
    index = made(make, Snapshot(keys[:1_500], lineage), 1_000)
    assert found_share(index, Snapshot(keys, lineage), queries) >= 0.95
    old = index.nearest(Snapshot(keys[:1_100], lineage), queries, 4)
    assert int(old.max()) < 1_100, "an older snapshot sees its own rows only"
    fewer = index.nearest(Snapshot(keys[:50], lineage), queries, 4)
    assert torch.equal(fewer[:, 0], best_of(keys[:50], queries)), "few rows are all searched"
    # rows that are cut are gone, and others of the same number take their places
    lineage.cuts.append(1_200)
    new = keys[1_900:]
    now = Snapshot(torch.cat([keys[:1_200], new]), lineage)
    for _ in range(2):  # a graph is made again meanwhile, and then used
        assert found_share(index, now, new) >= 0.9
        assert int(index.nearest(now, queries, 4).max()) < 1_300
        index.wait_until_made()
    (known,) = index._known.values()
    assert known.first_pass is not None


@pytest.mark.parametrize("make", KINDS)
def test_a_cut_into_the_first_rows_makes_it_anew(make: MakeFirstPass) -> None:
    keys, queries = clustered(600, 16)
    lineage = Lineage()
    index = made(make, Snapshot(keys, lineage), 400)
    lineage.cuts.append(300)
    now = Snapshot(torch.cat([keys[:300], keys[300:].flip(0)]), lineage)
    assert found_share(index, now, queries) == 1.0, "exact meanwhile"
    index.wait_until_made()
    assert found_share(index, now, queries) >= 0.95
    assert torch.equal(
        index.nearest(now, queries, 4), made(make, now, 400).nearest(now, queries, 4)
    )


@pytest.mark.parametrize("make", KINDS)
def test_what_was_made_of_rows_that_were_cut_is_not_used(make: MakeFirstPass) -> None:
    keys, queries = clustered(400, 8)
    index, lineage = KeyIndex(make, 300), Lineage()
    index.nearest(Snapshot(keys, lineage), queries, 1)
    lineage.cuts.append(100)
    index.wait_until_made()
    now = Snapshot(torch.cat([keys[:100], keys[300:].flip(0)]), lineage)
    assert found_share(index, now, queries) == 1.0


@pytest.mark.promise("P7")
@pytest.mark.parametrize("make", KINDS)
def test_proposals_are_the_same_whenever_rows_came(make: MakeFirstPass) -> None:
    keys, queries = torch.randn(1_500, 16), torch.randn(100, 16)
    found = []
    for sizes in ((800, 801, 1_200, 1_500), (1_500,)):
        index, lineage = KeyIndex(make, 700), Lineage()
        for size in sizes:
            index.nearest(Snapshot(keys[:size].contiguous(), lineage), queries, 4)
            index.wait_until_made()
        found.append(index.nearest(Snapshot(keys, lineage), queries, 4))
    assert torch.equal(found[0], found[1])


_PROGRAM = """
import sys, hashlib, faiss, torch
from errata.indices.faiss_indices import FIRST_PASSES
faiss.omp_set_num_threads(int(sys.argv[2]))
generator = torch.Generator().manual_seed(0)
keys = torch.randn(1_500, 16, generator=generator)
first_pass = FIRST_PASSES[sys.argv[1]](keys[:700])
for part in keys.split(int(sys.argv[3])):
    first_pass.add(part)
print(hashlib.sha256(first_pass.propose(keys[:50], 8, None).tobytes()).hexdigest())
"""


@pytest.mark.promise("P7")
@pytest.mark.parametrize("kind", ["lists", "graph"])
def test_processes_with_other_threads_and_other_batches_propose_the_same(kind: str) -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, kind, threads, rows],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads, rows in (("1", "1500"), ("4", "100"))
    }
    assert len(said) == 1, said


def test_forgotten_lineages_are_freed() -> None:
    keys, queries = clustered(600, 8)
    lineage = Lineage()
    index = made(Lists, Snapshot(keys, lineage), 400)
    index.nearest(Snapshot(keys.flip(0).contiguous()), queries, 1)
    index.wait_until_made()
    gc.collect()
    assert list(index._known) == [lineage]


def test_scores_of_proposals_come_from_the_keys() -> None:
    keys, queries = clustered(200, 8)
    proposed = torch.tensor([[3, -1, 7, 100], [5, 9, -1, -1]])
    found = nearest_of(keys, queries[:2], proposed, 3)
    for row, given, query in zip(found, proposed, queries[:2], strict=True):
        real = [int(one) for one in given if one >= 0]
        ranked = sorted(real, key=lambda one: -float(keys[one] @ query))
        assert row.tolist() == [*ranked, -1][:3]


def test_a_setting_chooses_the_index() -> None:
    assert FaissIndices().kind in ("lists", "gpu")
    assert FaissIndices("exact").inner_product()._make is None
    assert FaissIndices("graph").inner_product()._make is Graph
    with pytest.raises(InvalidRequestError, match="choose one of auto, exact, lists, graph, gpu"):
        FaissIndices("tree")


def test_an_index_on_a_gpu_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_indices, "has_gpu", lambda: False)
    with pytest.raises(InvalidRequestError, match="install faiss-gpu"):
        FaissIndices("gpu")
    monkeypatch.setattr(faiss_indices, "has_gpu", lambda: True)
    assert FaissIndices().kind == "gpu"
    assert FIRST_PASSES["gpu"] is GpuRows


def test_an_index_on_a_gpu_hides_rows_that_a_snapshot_lacks() -> None:
    keys, queries = clustered(300, 8)
    rows = on_cpu(keys)
    rows.add(keys)
    proposed: Any = rows.propose(queries, 16, 100)
    assert int(proposed.max()) < 100
    assert bool(np.any(proposed == -1))
