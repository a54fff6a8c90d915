"""The routing benchmark at small sizes."""

import json
from pathlib import Path

import torch
from rich.console import Console

from errata.evaluation.encoded_keys import Encoded
from errata.evaluation.route_bench import RoutePlan, run


def test_it_measures_every_kind_and_what_it_finds(tmp_path: Path) -> None:
    plan = RoutePlan(
        (200, 2_000), width=64, batch=8, rounds=5, indices=("lists", "graph"), graph_keys=500
    )
    found = run(plan, tmp_path, Console(quiet=True))
    assert json.loads((tmp_path / "result.json").read_text())["points"] == found["points"]
    kinds = [(point["keys"], point["index"]) for point in found["points"]]
    assert kinds == [(n, kind) for n in (200, 2_000) for kind in ("exact", "lists", "graph")]
    for point in found["points"]:
        if (point["keys"], point["index"]) == (2_000, "graph"):
            assert point["ms"] is None, "too many keys for a graph"
            continue
        assert 0 < point["ms"]["p0"] <= point["ms"]["p50"] <= point["ms"]["p99"]
        assert 0.5 < point["found"] <= 1
        if point["index"] != "exact":
            assert point["found_claimed"] == point["found"], "normal keys claim all their queries"
            assert point["bytes_per_key"] > 0
            assert point["made_seconds"] > 0
    for codes in found["codes"]:
        assert 0 < codes["codes_ms"]["p50"] <= codes["codes_ms"]["p99"]
        assert codes["codes_seconds"] > 0


def test_it_compares_numbers_of_namespaces(tmp_path: Path) -> None:
    plan = RoutePlan(
        (50,), width=16, batch=4, rounds=3, indices=(), namespaces=(1, 20), own_edits=5
    )
    (point,) = run(plan, tmp_path, Console(quiet=True))["namespace_points"]
    assert (point["namespaces"], point["own"]) == ([1, 20], 5)
    assert set(point["cpu_ms"]) == {"alone", "same", "mixed", "total"}
    for name in ("same", "mixed", "total"):
        assert point[f"ratio_{name}"] == point["cpu_ms"][name] / point["cpu_ms"]["alone"] > 0
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["namespace_points"] == [point]


def test_blends_keep_the_mean_and_the_covariance_of_their_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[8.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    spread = torch.tensor([2.0, 1.0, 0.5])
    relations = torch.arange(4_000) % 2
    keys = centres[relations] + spread * torch.randn(4_000, 3, generator=generator)
    encoded = Encoded(keys, relations, keys[:2], torch.zeros(3))
    blends = encoded.grown(24_000, seed=0)
    assert torch.equal(blends[:4_000], keys)
    first = blends[4_000:][blends[4_000:, 0] - blends[4_000:, 1] > 0]
    assert len(first) > 9_000, "both clusters grow"
    assert torch.allclose(first.mean(0), centres[0], atol=0.2)
    assert torch.allclose(first.std(0), spread, rtol=0.15)
