import pytest
import torch

from errata.engine.sampling import Sampling, SamplingTable

CPU = torch.device("cpu")


def _draws(logits: torch.Tensor, sampling: Sampling, num_draws: int) -> torch.Tensor:
    """Shares of the tokens among draws of one row at successive counts."""
    table = SamplingTable(num_draws, CPU)
    for row in range(num_draws):
        table.put(row, sampling)
    chosen = table.choose(logits.expand(num_draws, -1), 0, torch.arange(num_draws))
    return torch.bincount(chosen, minlength=logits.shape[-1]) / num_draws


def test_draws_follow_the_distribution() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = p.log()[None]
    shares = _draws(logits, Sampling(temperature=1.0, seed=3), 20_000)
    assert torch.allclose(shares, p, atol=0.015)
    flat = _draws(logits, Sampling(temperature=2.0, seed=3), 20_000)
    assert torch.allclose(flat, (p**0.5) / (p**0.5).sum(), atol=0.015)
    other = _draws(logits, Sampling(temperature=1.0, seed=4), 20_000)
    assert not torch.equal(other, shares)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.5), {0}),
        (Sampling(temperature=1.0, top_p=0.51), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.85), {0, 1, 2}),
        (Sampling(temperature=1.0, top_k=1, top_p=1.0), {0}),
        (Sampling(temperature=1.0, top_k=3, top_p=0.6), {0, 1}),
        (Sampling(temperature=1.0, top_p=1e-6), {0}),
        (Sampling(temperature=5.0), {0, 1, 2, 3}),
    ],
)
def test_top_k_and_top_p_keep_the_most_likely_tokens(sampling: Sampling, allowed: set[int]) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    shares = _draws(logits, sampling, 4_000)
    assert set(shares.nonzero().squeeze(-1).tolist()) == allowed


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    table = SamplingTable(3, CPU)
    table.put(1, Sampling(temperature=1.0, seed=5))
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([0, 4, 0])
    chosen = table.choose(logits, 0, counts)
    assert chosen[0] == logits[0].argmax()
    assert chosen[2] == logits[2].argmax()
    alone = SamplingTable(1, CPU)
    alone.put(0, Sampling(temperature=1.0, seed=5))
    assert chosen[1] == alone.choose(logits[1:2], 0, counts[1:2])[0]
    table.move(1, 0)
    assert table.choose(logits[[1]], 0, counts[1:2])[0] == chosen[1]


@pytest.mark.parametrize("temperature", [1e-5, 1e-6, 1e-30, 1e-38, 1e-45, 5e-324])
def test_very_low_temperatures_are_greedy_and_do_not_affect_other_rows(temperature: float) -> None:
    """1e-38 divides fp32 logits to infinity, and their softmax to NaN."""
    logits = torch.tensor([[30.0, -90.0, 31.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    table = SamplingTable(2, CPU)
    table.put(0, Sampling(temperature, seed=3))
    table.put(1, Sampling(1.0, seed=5))
    chosen = table.choose(logits, 0, torch.zeros(2, dtype=torch.int64))
    assert int(chosen[0]) == 2
    table.put(0, Sampling())
    assert torch.equal(table.choose(logits, 0, torch.zeros(2, dtype=torch.int64)), chosen)
