"""Artifacts on the wire, and what the workers hold of them."""

from __future__ import annotations

import torch

from errata.editing.effects.expert import Expert, WeightedExperts
from errata.editing.effects.mixture import GatedMixture, LoraBank, Mixture
from errata.editing.effects.plan import RowPlan
from errata.editing.effects.prefix import Prefix
from errata_vllm.artifacts import Ledger, Part, pack, unpack


def _expert(seed: int, size: int = 8) -> Expert:
    generator = torch.Generator().manual_seed(seed)
    return Expert(
        2, torch.randn(size, 4, generator=generator), torch.randn(4, size, generator=generator)
    )


def _plan(*experts: Expert) -> RowPlan:
    return RowPlan((WeightedExperts(tuple((expert, 0.5) for expert in experts)),))


def test_what_is_packed_comes_back_whole() -> None:
    bank = LoraBank(torch.randn(6, 4), torch.randn(5, 6))
    parts: list[Part] = [
        Prefix(torch.randn(3, 4), deep={2: torch.randn(3, 4)}),
        Mixture(3, {(1, "down"): bank, (0, "up"): bank}),
        _expert(0),
    ]
    prefix, mixture, expert = (unpack(pack(part).data) for part in parts)
    assert isinstance(prefix, Prefix)
    assert torch.equal(prefix.deep[2], parts[0].deep[2])  # type: ignore[union-attr]
    assert isinstance(mixture, Mixture)
    assert [*mixture.banks] == [(1, "down"), (0, "up")], "gates count places in this order"
    assert isinstance(expert, Expert)
    assert torch.equal(expert.down, parts[2].down)  # type: ignore[union-attr]


def test_equal_effects_share_a_digest_and_others_do_not() -> None:
    """The digest salts the prefix cache: equal digests share keys and values."""
    ledger = Ledger()
    one, same, other = (ledger.row(_plan(_expert(seed))).digest for seed in (0, 0, 1))
    assert one == same != other
    embeddings = torch.randn(2, 4)
    early, late = (ledger.row(RowPlan((Prefix(embeddings, after),))).digest for after in (0, 3))
    assert early != late
    mixture = Mixture(2, {(1, "down"): LoraBank(torch.randn(4, 4), torch.randn(4, 4))})
    gates = [torch.tensor([[0.5, weight]]) for weight in (0.1, 0.2)]
    first, second = (ledger.row(RowPlan((GatedMixture(mixture, g),))).digest for g in gates)
    assert first != second
    assert ledger.row(RowPlan()).digest == ""


def test_an_artifact_is_sent_once_and_dropped_when_idle_ones_are_too_many() -> None:
    first, second = _expert(0, 64), _expert(1, 64)
    size = len(pack(first).data)
    ledger = Ledger(idle_bytes=size)
    row = ledger.row(_plan(first))
    assert [part.digest for part in ledger.take(row)] == list(row.parts)
    assert ledger.take(row) == [], "the workers hold it"
    both = ledger.row(_plan(first, second))
    assert len(ledger.take(both)) == 1
    assert ledger.give_back(row) == []
    assert ledger.give_back(row) == []
    assert ledger.give_back(both) == [pack(first).digest], "one of the two fits"
    assert len(ledger.take(both)) == 1, "what was dropped is sent again"


def test_an_artifact_that_did_not_arrive_is_sent_again() -> None:
    ledger = Ledger()
    row = ledger.row(_plan(_expert(0)))
    ledger.lose(part.digest for part in ledger.take(row))
    assert ledger.give_back(row) == []
    assert len(ledger.take(row)) == 1


def test_an_artifact_in_use_is_never_dropped() -> None:
    ledger = Ledger(idle_bytes=0)
    row = ledger.row(_plan(_expert(0)))
    ledger.take(row)
    ledger.take(row)
    assert ledger.give_back(row) == []
    assert ledger.give_back(row) == list(row.parts)
