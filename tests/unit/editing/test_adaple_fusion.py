"""Drop and rescale: the generator's published vectors, statistics, and equality of bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.editing.adaple.fusion import drop_mask, fuse
from errata.editing.random_bits import philox

CPU = torch.device("cpu")
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # known answers published with Random123 for philox4x32, 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    a, b, c, d = (torch.tensor([word]) for word in counter)
    assert philox((a, b, c, d), key).tolist() == [list(expected)]


def _delta(d: int = 40, d_ff: int = 50) -> Tensor:
    return torch.randn(d, d_ff, generator=torch.Generator().manual_seed(0))


def _dr(delta: Tensor, p: float, seed: int = 1, layer: int = 2) -> Tensor:
    return fuse(delta, delta, fusion="dr", seed=seed, layer=layer, p=p)


def test_same_seed_and_layer_give_the_same_bits_and_others_do_not() -> None:
    delta = _delta()
    assert torch.equal(_dr(delta, 0.5), _dr(delta, 0.5))
    assert not torch.equal(_dr(delta, 0.5), _dr(delta, 0.5, seed=2))
    assert not torch.equal(_dr(delta, 0.5), _dr(delta, 0.5, seed=1 + 2**32))
    assert not torch.equal(_dr(delta, 0.5), _dr(delta, 0.5, layer=3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_give_the_same_mask() -> None:
    there = drop_mask((300, 701), seed=9, layer=1, p=0.7, device=torch.device("cuda"))
    here = drop_mask((300, 701), seed=9, layer=1, p=0.7, device=CPU)
    assert torch.equal(there.cpu(), here)


def test_a_mask_entry_does_not_depend_on_the_size() -> None:
    # counter-based: entry i depends only on seed, layer and i
    small = drop_mask((4, 50), seed=1, layer=2, p=0.5, device=CPU)
    large = drop_mask((40, 50), seed=1, layer=2, p=0.5, device=CPU)
    assert torch.equal(large[:4], small)


def test_p_zero_is_the_identity() -> None:
    delta = _delta()
    assert torch.equal(_dr(delta, 0.0), delta)
    assert not torch.equal(_dr(delta, 0.1), delta)
    assert torch.equal(fuse(delta, delta, fusion="none", seed=1, layer=1, p=0.0), delta)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_share_of_dropped_entries_is_p(p: float) -> None:
    mask = drop_mask((400, 500), seed=3, layer=0, p=p, device=CPU)
    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(float(mask.float().mean()) - p) < 5 * deviation


def test_masks_of_layers_are_independent() -> None:
    a, b = (drop_mask((400, 500), seed=3, layer=x, p=0.8, device=CPU) for x in (0, 1))
    kept_by_both = float((~a & ~b).float().mean())
    assert kept_by_both == pytest.approx(0.04, abs=0.003)


@pytest.mark.parametrize("p", [0.5, 0.8])
@pytest.mark.parametrize("num_masks", [16, 256])
def test_mean_over_masks_approaches_delta_at_the_right_rate(p: float, num_masks: int) -> None:
    delta = _delta()
    total = torch.stack([_dr(delta, p, seed=seed) for seed in range(num_masks)]).double().mean(0)
    error = float((total - delta).norm() / delta.norm())
    assert error == pytest.approx((p / ((1 - p) * num_masks)) ** 0.5, rel=0.1)


def test_dropping_inflates_the_norm_as_expected() -> None:
    delta = _delta(200, 300)
    assert float(_dr(delta, 0.8).norm() / delta.norm()) == pytest.approx(5**0.5, rel=0.03)


def test_topk_keeps_the_largest_entries_unscaled() -> None:
    delta = _delta()
    kept = fuse(delta, delta, fusion="topk", seed=1, layer=0, p=0.9)
    assert int((kept != 0).sum()) == round(0.1 * delta.numel())
    assert torch.equal(kept[kept != 0], delta[kept != 0])
    assert delta[kept != 0].abs().min() > delta[kept == 0].abs().max()


def test_average_is_the_mean_of_the_weights_before_and_after() -> None:
    weight, delta = torch.randn(4, 6), torch.randn(4, 6)
    fused = fuse(delta, delta, fusion="average", seed=1, layer=0, p=0.25)
    torch.testing.assert_close(weight + fused, 0.25 * weight + 0.75 * (weight + delta))


@pytest.mark.parametrize("fusion", ["dr", "topk", "average"])
def test_a_part_of_a_commit_keeps_the_commits_mask(fusion: str) -> None:
    whole, part = _delta(), _delta() * torch.rand(40, 50)
    full = fuse(whole, whole, fusion=fusion, seed=1, layer=0, p=0.7)
    rest = fuse(part, whole, fusion=fusion, seed=1, layer=0, p=0.7)
    assert torch.equal(rest != 0, full != 0)
