"""The closed forms, compared with the least-squares problems that they solve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.memory import AdapleMemory, key_name
from errata.editing.adaple.solve import (
    solve_delta,
    solve_equality,
    solve_in_null_space,
    whitened_norms,
)
from errata.editing.artifact import Artifact
from errata.editing.lane.commits import Commit
from errata.errors import SingularCovarianceError

D, D_FF, U, N = 7, 12, 3, 40
LAMBDA = 1.7


@pytest.fixture
def problem() -> dict[str, Tensor]:
    """W₀, old keys K₀ with V₀ = W₀K₀, new keys K₁ with V₁ = W₀K₁, target values V₂."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w0, k0, k1, v2 = draw(D, D_FF), draw(D_FF, N), draw(D_FF, U), draw(D, U)
    return {"w0": w0, "k0": k0, "k1": k1, "v2": v2, "v1": w0 @ k1, "c": LAMBDA * k0 @ k0.T}


def _solve(problem: dict[str, Tensor], config: AdapleConfig, scale: float = 1.0) -> Tensor:
    residual = problem["v2"] - config.old_weight * problem["v1"]
    delta = solve_delta(problem["k1"], residual, scale * problem["c"], gamma=config.gamma)
    return delta.dense()


def _least_squares(inputs: list[Tensor], outputs: list[Tensor]) -> Tensor:
    return torch.linalg.lstsq(torch.cat(inputs, 1).T, torch.cat(outputs, 1).T).solution.T


MEMIT = AdapleConfig(variant="memit")
PRINTED = AdapleConfig(variant="printed", target="ffn")
EQ3 = AdapleConfig(variant="eq3")


def test_memit_is_least_squares_on_old_and_new_keys(problem: dict[str, Tensor]) -> None:
    old = LAMBDA**0.5 * problem["k0"]
    expected = _least_squares([old, problem["k1"]], [problem["w0"] @ old, problem["v2"]])
    torch.testing.assert_close(problem["w0"] + _solve(problem, MEMIT), expected)
    assert not torch.allclose(problem["w0"] + _solve(problem, PRINTED), expected)


def test_printed_is_least_squares_with_the_negated_old_value(problem: dict[str, Tensor]) -> None:
    old = LAMBDA**0.5 * problem["k0"]
    k1, v1, v2 = problem["k1"], problem["v1"], problem["v2"]
    expected = _least_squares([old, k1, k1], [problem["w0"] @ old, -v1, v2])
    torch.testing.assert_close(problem["w0"] + _solve(problem, PRINTED), expected)
    assert not torch.allclose(problem["w0"] + _solve(problem, MEMIT), expected)


def test_eq3_is_a_stationary_point_of_the_papers_objective(problem: dict[str, Tensor]) -> None:
    def gradient(delta: Tensor) -> Tensor:
        w = (problem["w0"] + delta).requires_grad_(True)
        k0, k1 = problem["k0"], problem["k1"]
        kept = LAMBDA * (w @ k0 - problem["w0"] @ k0).square().sum()
        written = (w @ k1 - problem["v2"]).square().sum()
        forgotten = (w @ k1 - problem["v1"]).square().sum()
        (result,) = torch.autograd.grad(kept + written - forgotten, w)
        return result

    assert gradient(_solve(problem, EQ3)).abs().max() < 1e-9
    assert gradient(_solve(problem, MEMIT)).abs().max() > 1e-2
    assert gradient(_solve(problem, PRINTED)).abs().max() > 1e-2


def test_erase_interpolates_from_memit(problem: dict[str, Tensor]) -> None:
    memit = _solve(problem, MEMIT)
    assert torch.equal(_solve(problem, AdapleConfig(variant="erase", beta=0.0)), memit)
    half = _solve(problem, AdapleConfig(variant="erase", beta=0.5))
    assert half.norm() > memit.norm()
    nearly = _solve(problem, AdapleConfig(variant="erase", beta=1 - 1e-9))
    torch.testing.assert_close(nearly, _solve(problem, EQ3), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "share_old", "share_new"),
    [
        (MEMIT, 0.0, 1.0),
        (PRINTED, -0.5, 0.5),
        (AdapleConfig(variant="erase", beta=0.5), -1.0, 2.0),
        (AdapleConfig(variant="erase", beta=0.75), -3.0, 4.0),
    ],
)
def test_without_old_keys_each_variant_has_its_limit(
    problem: dict[str, Tensor], config: AdapleConfig, share_old: float, share_new: float
) -> None:
    limit = share_old * problem["v1"] + share_new * problem["v2"]

    def error(scale: float) -> float:
        now = (problem["w0"] + _solve(problem, config, scale)) @ problem["k1"]
        return float((now - limit).norm() / limit.norm())

    assert error(1e-9) < 1e-6
    assert error(1.0) > 1e-2


def test_without_old_keys_eq3_diverges(problem: dict[str, Tensor]) -> None:
    ratio = _solve(problem, EQ3, 1e-6).norm() / _solve(problem, EQ3).norm()
    assert float(ratio) == pytest.approx(1e6, rel=1e-6)


@pytest.mark.parametrize(
    ("config", "gamma"),
    [
        (MEMIT, 1.0),
        (PRINTED, 2.0),
        (EQ3, 0.0),
        (AdapleConfig(variant="erase", beta=0.3), 0.7),
    ],
)
def test_new_values_follow_the_gain_matrix(
    problem: dict[str, Tensor], config: AdapleConfig, gamma: float
) -> None:
    k1, v1 = problem["k1"], problem["v1"]
    gain = k1.T @ torch.linalg.solve(problem["c"], k1)
    inverse = torch.linalg.inv(torch.eye(U, dtype=torch.float64) + gamma * gain)
    expected = v1 + (problem["v2"] - config.old_weight * v1) @ gain @ inverse
    torch.testing.assert_close((problem["w0"] + _solve(problem, config)) @ k1, expected)


def test_accumulated_keys_make_two_batches_a_joint_solve(problem: dict[str, Tensor]) -> None:
    k1, v2, c, w0 = problem["k1"], problem["v2"], problem["c"], problem["w0"]
    joint = w0 + solve_delta(k1, v2 - w0 @ k1, c, gamma=1.0).dense()
    w1 = w0 + solve_delta(k1[:, :2], (v2 - w0 @ k1)[:, :2], c, gamma=1.0).dense()
    kept = Artifact({key_name(4): k1[:, :2]})

    def second(mode: str) -> Tensor:
        memory = AdapleMemory(AdapleConfig.model_validate({"covariance": mode}))
        commit = Commit(1, ("edits/1-0", "edits/1-1"), Artifact({}), kept)
        earlier = memory.after(commit).gram(4)
        system = c if earlier is None else c + earlier
        residual = v2[:, 2:] - w1 @ k1[:, 2:]
        return w1 + solve_delta(k1[:, 2:], residual, system, gamma=1.0).dense()

    torch.testing.assert_close(second("accumulate"), joint)
    assert not torch.allclose(second("fixed"), joint)


def test_outputs_of_held_out_keys_hardly_change() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -3, 48, dtype=torch.float64)[:, None]  # keys of text are anisotropic

    def text_keys(n: int) -> Tensor:
        return scales * torch.randn(48, n, generator=generator, dtype=torch.float64)

    seen, held_out = text_keys(4000), text_keys(500)
    k1 = 0.2 * torch.randn(48, 2, generator=generator, dtype=torch.float64)
    residual = torch.randn(16, 2, generator=generator, dtype=torch.float64)
    delta = solve_delta(k1, residual, 48 * seen @ seen.T / 4000, gamma=1.0).dense()
    moved = (delta @ held_out).norm() / 500**0.5
    assert moved < 0.05 * residual.norm()
    assert (delta @ k1 - residual).norm() < 0.1 * residual.norm()
    # control: an update that ignores C changes the outputs of held-out keys by far more
    unconstrained = residual @ torch.linalg.pinv(k1)
    assert (unconstrained @ held_out).norm() / 500**0.5 > 5 * moved


def test_system_that_cannot_be_factorised_is_refused(problem: dict[str, Tensor]) -> None:
    zero = torch.zeros_like(problem["c"])
    with pytest.raises(SingularCovarianceError, match="larger ridge"):
        solve_delta(problem["k1"], problem["v2"], zero, gamma=0.0)
    with pytest.raises(SingularCovarianceError, match="larger ridge"):
        solve_delta(problem["k1"], problem["v2"], zero * torch.nan, gamma=1.0)


def test_equality_is_least_squares_in_the_coordinates_that_whiten_text(
    problem: dict[str, Tensor],
) -> None:
    k1, c, residual = problem["k1"], problem["c"], problem["v2"] - problem["v1"]
    delta = solve_equality(k1, residual, c).dense()
    root = torch.linalg.cholesky(c)
    white = torch.linalg.solve_triangular(root, k1, upper=False)  # L⁻¹K₁
    exact = residual @ torch.linalg.pinv(white) @ torch.linalg.inv(root)
    torch.testing.assert_close(delta, exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(delta @ k1, residual, rtol=0.05, atol=0.05)
    # control: an update that writes the same values, but not at the least cost to text
    other = residual @ torch.linalg.pinv(k1)
    assert torch.trace(other @ c @ other.T) > 1.2 * torch.trace(delta @ c @ delta.T)


def test_edits_with_equal_keys_share_a_value_under_equality(problem: dict[str, Tensor]) -> None:
    k1, residual = problem["k1"][:, :2].clone(), problem["v2"][:, :2]
    k1[:, 1] = k1[:, 0] + 1e-6 * k1[:, 1]
    delta = solve_equality(k1, residual, problem["c"]).dense()
    mean = residual.mean(1, keepdim=True).expand(-1, 2)
    torch.testing.assert_close(delta @ k1, mean, rtol=0.05, atol=0.05)


def test_null_space_is_least_squares_among_updates_that_leave_text_alone() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rank, ridge = 8, 0.7
    k0, k1, earlier, residual = draw(D_FF, rank), draw(D_FF, U), draw(D_FF, 4), draw(D, U)
    k0[:, rank - 1] = k0[:, 0]  # text spans rank − 1 directions
    second_moment = k0 @ k0.T
    found = solve_in_null_space(
        k1, residual, second_moment, earlier @ earlier.T, threshold=1e-6, ridge=ridge
    ).dense()
    torch.testing.assert_close(found @ k0, torch.zeros(D, rank).double(), rtol=0, atol=1e-9)
    basis = torch.linalg.eigh(second_moment).eigenvectors[:, : D_FF - rank + 1]
    inputs = [basis.T @ k1, basis.T @ earlier, ridge**0.5 * torch.eye(basis.shape[1]).double()]
    outputs = [residual, torch.zeros(D, 4).double(), torch.zeros(D, basis.shape[1]).double()]
    torch.testing.assert_close(found, _least_squares(inputs, outputs) @ basis.T)
    with pytest.raises(SingularCovarianceError, match="larger null_threshold"):
        solve_in_null_space(
            k1, residual, torch.eye(D_FF).double(), None, threshold=0.5, ridge=ridge
        )


def test_whitened_norms_are_quadratic_forms(problem: dict[str, Tensor]) -> None:
    expected = (problem["k1"].T @ torch.linalg.inv(problem["c"]) @ problem["k1"]).diagonal()
    torch.testing.assert_close(whitened_norms(problem["k1"], problem["c"]), expected)
