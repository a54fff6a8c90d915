"""Namespaces: names, inventories that keep them apart, and claims that never cross."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.lane.inventory import Inventory, fact_of
from errata.editing.lane.repository import Rows
from errata.editing.lane.search import SearchedRows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.namespaces import (
    ALL,
    DEFAULT_ONLY,
    MAX_READ,
    Reading,
    is_namespace,
    namespace_of,
    own_namespace,
    place_of,
    reading_for,
    reading_of,
)
from errata.editing.retriever.encoder import Tokens
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.sentinel import ClaimRule
from errata.editing.scope import by_cosine, unit
from errata.errors import EditNotRevertibleError, InvalidRequestError, LimitExceededError
from errata.indices.inner_product import KeyIndex
from tests.unit.editing.recipe_models import make_lane_model

NAMESPACES = ("", "team-a", "team-b", "c.9_x")
PLACES = (*NAMESPACES, "~spring", "team-a~autumn")
PROMPTS = ("Toyota makes", "The tower of Pisa is in", "Lyon is", "Nokia was founded in")
WIDTH = 6


@pytest.mark.parametrize("name", ["A", "-a", "a b", "ä", "a/b", "*", "a" * 64, ".a", "a\n"])
def test_an_impossible_name_is_refused_with_the_field(name: str) -> None:
    assert not is_namespace(name)
    with pytest.raises(InvalidRequestError, match="63 characters") as caught:
        namespace_of(name, "edits[3].namespace")
    assert caught.value.field == "edits[3].namespace"


def test_the_default_namespace_has_a_name_and_the_empty_one() -> None:
    assert namespace_of("default", "f") == namespace_of("", "f") == ""
    assert not is_namespace("default"), "the log knows it by the empty name alone"
    assert all(map(is_namespace, (*NAMESPACES, "a" * 63, "0")))
    assert reading_of(["team-b", "default", "team-a", "team-b"]) == ("", "team-a", "team-b")
    assert reading_of([]) == DEFAULT_ONLY
    assert reading_of(["*"]) == ALL


def test_a_place_of_a_canary_is_no_name_that_a_caller_can_write() -> None:
    place = place_of("team-a", "canaries/spring")
    assert own_namespace(place) == "team-a"
    assert place_of("team-a", "") == own_namespace("team-a") == "team-a"
    assert reading_for(place) == ("team-a", place)
    assert reading_for("team-a") == ("team-a",)
    assert not is_namespace(place)
    with pytest.raises(InvalidRequestError, match="no name of a namespace"):
        reading_of([place])


def test_a_reading_has_a_limit_and_no_names_beside_the_star() -> None:
    assert len(reading_of([f"n{number}" for number in range(MAX_READ)])) == MAX_READ
    with pytest.raises(LimitExceededError, match="the limit is 16"):
        reading_of([f"n{number}" for number in range(MAX_READ + 1)])
    with pytest.raises(InvalidRequestError, match="leave the other names out"):
        reading_of(["*", "team-a"])


def _rows(count: int, drawn: random.Random, first: int = 0) -> Rows:
    """Random edits in random namespaces; some have equal keys, and some the same prompt."""
    keys = torch.randint(-2, 3, (count, WIDTH), generator=torch.Generator().manual_seed(first))
    keys[:, 0] += 5  # no zero vectors
    facts = tuple(fact_of(drawn.choice(PROMPTS)) for _ in range(count))
    names = tuple(f"edits/{first + number + 1}-0" for number in range(count))
    values = torch.arange(first, first + count, dtype=torch.float32)[:, None]
    rows = Rows(names, facts, unit(keys.float()), values)
    return rows.placed({name: drawn.choice(PLACES) for name in names})


def _grown(drawn: random.Random) -> tuple[Inventory, Rows]:
    """An inventory after random commits, trials and reversals; and its rows, oldest first."""
    rows = _rows(6, drawn)
    inventory = Inventory.of(rows.only(())).adding(rows, 1).put()
    for step in range(1, 9):
        more = _rows(drawn.randint(1, 4), drawn, 100 * step)
        addition = inventory.adding(more, step)
        if drawn.random() < 0.3:  # a trial that failed its check
            addition.put()
            addition.undo()
            continue
        inventory, rows = addition.put(), Rows.joined([rows, more])
        if drawn.random() < 0.4:
            gone = drawn.sample(rows.names, 2)
            inventory, rows = inventory.without(gone), rows.without(gone)
        if drawn.random() < 0.3:
            inventory, rows = _promoted(inventory, rows, drawn.choice(PLACES[-2:]))
    return inventory, rows


def _promoted(inventory: Inventory, rows: Rows, place: str) -> tuple[Inventory, Rows]:
    """Moves a canary's edits to their namespace."""
    outside = dict(zip(rows.names, rows.namespaces or ("",) * len(rows.names), strict=True))
    moved = [name for name, own in outside.items() if own == place]
    if not moved:
        return inventory, rows
    after = inventory.moved(moved, own_namespace(place))
    return after, rows.placed({**outside, **dict.fromkeys(moved, own_namespace(place))})


def _readable(rows: Rows, reading: Reading) -> Rows:
    own = rows.namespaces or ("",) * len(rows.names)
    read = [
        n
        for n, place in zip(rows.names, own, strict=True)
        if place in reading or ("*" in reading and "~" not in place)
    ]
    return rows.only(set(read))


READINGS: tuple[Reading, ...] = (
    DEFAULT_ONLY,
    ("team-a",),
    ("team-a", "team-b"),
    ("", "c.9_x"),
    ("nobody",),
    ALL,
    ("", "~spring"),
    ("team-a", "team-a~autumn"),
    ("*", "team-a~autumn", "~spring"),
)


@pytest.mark.parametrize("seed", range(12))
def test_an_inventory_equals_that_of_its_rows(seed: int) -> None:
    """Whatever happened before: the same rows, digests and winners as made at once."""
    inventory, rows = _grown(random.Random(seed))
    at_once = Inventory.of(rows)
    assert inventory.names == at_once.names == rows.names
    assert inventory.digests() == at_once.digests() == rows.digests()
    found = inventory.rows()
    assert (found.names, found.facts, found.namespaces) == (
        rows.names,
        rows.facts,
        rows.namespaces,
    )
    assert torch.equal(found.keys, rows.keys)
    for namespace in set(rows.namespaces):
        own = Inventory.of(_readable(rows, (namespace,)))
        expected = own.repository_of(namespace)
        repository = inventory.repository_of(namespace)
        assert repository.names == expected.names
        assert torch.equal(repository.values, expected.values)
    for name in rows.names:
        place = inventory.namespace_of(name)
        if name in inventory.repository_of(place).names:
            assert inventory.value_of(name).item() == float(name.split("/")[1][:-2]) - 1


def test_the_namespace_is_in_the_digest_of_an_edit() -> None:
    rows = _rows(1, random.Random(0))
    digests = {Inventory.of(rows.placed({rows.names[0]: name})).digests() for name in NAMESPACES}
    assert len(digests) == len(NAMESPACES)
    assert Inventory.of(rows.placed({})).digests() in digests, "as without namespaces"


def test_other_namespaces_stay_where_they_are() -> None:
    """So their indices need not be made again, whatever a busy namespace does."""
    rows = _rows(8, random.Random(1)).placed({f"edits/{n}-0": "team-a" for n in range(5, 9)})
    before = Inventory.of(rows)
    newer = Rows(("edits/9-0",), (rows.facts[7],), rows.keys[:1], rows.values[:1])
    superseding = before.adding(newer.placed({"edits/9-0": "team-a"}), 9).put()
    reverted = superseding.without(["edits/9-0"])
    for after in (superseding, reverted):
        assert after.repository is before.repository
    assert superseding.repository_of("team-a") is not before.repository_of("team-a")
    with pytest.raises(EditNotRevertibleError):
        reverted.without(["edits/9-0"])


@pytest.mark.parametrize("seed", range(12))
def test_claims_are_those_of_a_system_with_the_readable_edits_alone(seed: int) -> None:
    drawn = random.Random(seed)
    inventory, rows = _grown(drawn)
    queries = _queries(rows, drawn)
    readings = [drawn.choice(READINGS) for _ in queries]
    found = by_cosine(inventory, 0.5, KeyIndex(), queries, readings)
    expected = [
        _alone(rows, query, reading) for query, reading in zip(queries, readings, strict=True)
    ]
    assert [_decision(claim) for claim in found] == [_decision(claim) for claim in expected]
    everything = by_cosine(inventory, 0.5, KeyIndex(), queries, [ALL] * len(queries))
    assert [claim.edit for claim in everything] != [claim.edit for claim in found], (
        "control: a system that overlooks what a request reads decides otherwise"
    )


def _queries(rows: Rows, drawn: random.Random) -> Tensor:
    """Keys of edits and vectors near them."""
    picked = rows.keys[[drawn.randrange(len(rows.names)) for _ in range(40)]]
    noise = torch.randn(picked.shape, generator=torch.Generator().manual_seed(len(rows.names)))
    noise[::2] = 0.0  # exactly an edit's key, which others can share
    return unit(picked + 0.3 * noise)


def _alone(rows: Rows, query: Tensor, reading: Reading) -> Claim:
    """The decision of a system in which the readable edits are all, newest of each fact."""
    own = _as_one_namespace(_readable(rows, reading))
    return by_cosine(own, 0.5, KeyIndex(), query[None])[0]


def _as_one_namespace(rows: Rows) -> Inventory:
    """All in the default namespace; facts of different namespaces stay different ones.

    Canaries are as if they had been promoted.
    """
    places = rows.namespaces or ("",) * len(rows.names)
    facts = tuple(
        fact_of(f"{own_namespace(place)}|{fact}")
        for place, fact in zip(places, rows.facts, strict=True)
    )
    return Inventory.of(Rows(rows.names, facts, rows.keys, rows.values))


def _decision(claim: Claim) -> tuple[str, float, bool]:
    return claim.edit, round(claim.score, 12), claim.holds


class _Counting(KeyIndex):
    """Notes what is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.searches: list[tuple[int, int]] = []

    def nearest(self, rows: SearchedRows, queries: Tensor, k: int) -> Tensor:
        self.searches.append((len(rows.keys), len(queries)))
        return super().nearest(rows, queries, k)


def test_a_batch_searches_each_namespace_that_it_reads_once_and_no_other() -> None:
    """However many there are: a thousand others cost nothing."""
    count = 1_004
    names = tuple(f"edits/{number}-0" for number in range(1, count + 1))
    keys = unit(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0)))
    rows = Rows(names, tuple(map(fact_of, names)), keys, torch.zeros(count, 1))
    own = {
        name: "team-a" if n < 3 else "team-b" if n < 4 else f"n{n}" for n, name in enumerate(names)
    }
    inventory, index = Inventory.of(rows.placed(own)), _Counting()
    readings: list[Reading] = [("team-a",), ("team-b",), ("team-a", "team-b"), ("nobody",), ("",)]
    by_cosine(inventory, 0.5, index, keys[:5], readings)
    assert sorted(index.searches) == [(1, 2), (3, 2)]


class _FindsFirst(KeyIndex):
    """An approximate index that proposes the first row alone."""

    def nearest(self, rows: SearchedRows, queries: Tensor, k: int) -> Tensor:
        return torch.tensor([[0, *[-1] * (k - 1)]] * len(queries))


def test_where_only_hidden_edits_are_proposed_none_is_named() -> None:
    names = ("edits/1-0", "edits/2-0", "edits/3-0")
    facts = (fact_of("a"), fact_of("b"), fact_of("a"))
    rows = Rows(names, facts, torch.eye(WIDTH)[:3], torch.zeros(3, 1))
    inventory = Inventory.of(rows.placed({"edits/3-0": "~spring"}))
    readings: list[Reading] = [("", "~spring"), DEFAULT_ONLY]
    found = by_cosine(inventory, 0.5, _FindsFirst(), torch.eye(WIDTH)[[0, 0]], readings)
    assert [(claim.edit, claim.holds) for claim in found] == [
        ("edits/3-0", False),
        ("edits/1-0", True),
    ]


def test_of_equal_scores_the_newest_readable_edit_wins() -> None:
    key = torch.eye(WIDTH)[:1].repeat(3, 1)
    names = ("edits/1-0", "edits/2-0", "edits/3-0")
    rows = Rows(names, tuple(map(fact_of, names)), key, torch.zeros(3, 1))
    inventory = Inventory.of(rows.placed({"edits/1-0": "team-b", "edits/2-0": "team-a"}))
    readings: list[Reading] = [ALL, ("team-a", "team-b"), ("team-b",), ("",), ("nobody",)]
    found = by_cosine(inventory, 0.5, KeyIndex(), key[:1].repeat(5, 1), readings)
    assert [claim.edit for claim in found] == [
        "edits/3-0",
        "edits/2-0",
        "edits/1-0",
        "edits/3-0",
        "",
    ]
    assert [claim.holds for claim in found] == [True, True, True, True, False]


@pytest.mark.parametrize("seed", range(4))
def test_the_gate_reads_what_a_request_reads(
    llama: CausalLM, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own prompt or by the sentinel: in a mixed batch, with one pass of the encoder."""
    gate = Gate.of(make_lane_model(llama), "0" * 64)
    drawn = random.Random(seed)
    keys = torch.randn(24, gate.sentinel.shape[-1], generator=torch.Generator().manual_seed(seed))
    names = tuple(f"edits/{number + 1}-0" for number in range(24))
    said = [f"{drawn.choice(PROMPTS)} {drawn.randrange(4)}" for _ in names]
    rows = Rows(names, tuple(map(fact_of, said)), keys, torch.zeros(24, 1))
    rows = rows.placed({name: drawn.choice(PLACES) for name in names})
    prompts = [*said, *(f"{prompt} not" for prompt in PROMPTS)]
    readings = [drawn.choice(READINGS) for _ in prompts]
    read: list[int] = []
    tokens = gate.model.encoder.tokens

    def watched(texts: Sequence[str]) -> Tokens:
        read.append(len(texts))
        return tokens(texts)

    for rule in (ClaimRule(), ClaimRule(own_prompt=False, threshold=0.1)):
        monkeypatch.setattr(gate.model.encoder, "tokens", watched)
        found = gate.claims(Inventory.of(rows), KeyIndex(), prompts, readings, rule)
        monkeypatch.undo()
        assert len(read) == 1, "whatever the prompts read"
        read.clear()
        expected = [
            _gated(gate, rows, prompt, reading, rule)
            for prompt, reading in zip(prompts, readings, strict=True)
        ]
        assert [(c.edit, c.holds) for c in found] == [(c.edit, c.holds) for c in expected]
        for claim, own in zip(found, expected, strict=True):
            assert claim.score == pytest.approx(own.score, abs=1e-3)
        assert any(claim.holds for claim in found), "control: the rule claims something"


def _gated(gate: Gate, rows: Rows, prompt: str, reading: Reading, rule: ClaimRule) -> Claim:
    """The decision of a system in which the readable edits are all, newest of each fact."""
    readable = _readable(rows, reading)
    same = [
        n for n, fact in zip(readable.names, readable.facts, strict=True) if fact == fact_of(prompt)
    ]
    if same and rule.own_prompt:
        return Claim(same[-1], math.inf, -math.inf)
    (claim,) = gate.claims(_as_one_namespace(readable), KeyIndex(), [prompt], None, rule)
    return claim


def test_the_same_prompt_in_two_namespaces_is_two_facts() -> None:
    fact = fact_of("Toyota makes")
    rows = Rows(("edits/1-0", "edits/2-0", "edits/3-0"), (fact,) * 3, torch.eye(3), torch.eye(3))
    inventory = Inventory.of(rows.placed({"edits/2-0": "team-a"}))
    assert inventory.repository.names == ("edits/3-0",), "the first one is superseded"
    assert inventory.repository_of("team-a").names == ("edits/2-0",)
    assert inventory.without(["edits/3-0"]).repository.names == ("edits/1-0",)
    assert inventory.without(["edits/2-0"]).namespaces == [""]
