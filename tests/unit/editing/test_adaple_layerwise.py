"""Changes of every layer's own value: what they cost text, and that they write the target."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from errata.editing.adaple import METHOD, damage
from errata.editing.adaple.config import LASTING, AdapleConfig
from errata.editing.adaple.keys import KeyProbes
from errata.editing.adaple.layerwise import optimise_changes
from errata.editing.adaple.targets import TargetProblem
from errata.editing.edit import LAST_ATTEMPT, Edit, EditBatch
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, positions, text_ids, tokenise
from errata.errors import PreconditionError
from tests.unit.editing.lanes import adaple_bench
from tests.unit.editing.tiny_models import (
    ALL_FAMILIES,
    FAMILIES,
    TEXT,
    TextResources,
    make_batch,
    make_model,
)

LAYERS = (1, 2)
CONFIG = AdapleConfig.model_validate(
    dict(LASTING)
    | {
        "layers": LAYERS,
        "num_prefixes": 1,
        "prefix_tokens": 3,
        "steps": 60,
        "step_length": 0.1,
        "covariance_samples": 4,
    }
)
# The subject ends the prompt: a random model's attention carries nothing to a later token.
DIRECT = (
    Edit("edits/1-0", "The mother tongue of Danielle Darrieux", "x", "Danielle Darrieux"),
    Edit("edits/1-1", "Phones were made in the town of Nokia", "y", "Nokia"),
)


def _log_probs(model: CausalLM, moved: dict[int, Tensor]) -> Tensor:
    """Of all tokens of `TEXT`, with vectors (B, T, d) added to the layers' outputs."""
    ids, mask = pad_right(model, text_ids(model, TEXT, most=64))
    with ExitStack() as hooks, torch.no_grad():
        for layer, change in moved.items():

            def add(_: nn.Module, __: Any, output: Tensor, change: Tensor = change) -> Tensor:
                return output + change.view_as(output)

            hooks.callback(model.down(layer).register_forward_hook(add).remove)
        body = model.body(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        )
        return model.head(body.last_hidden_state[mask.bool()]).float().log_softmax(-1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_fisher_matrix_predicts_the_damage_to_text(family: str) -> None:
    model, layer = make_model(family), 2
    fisher = damage.compute(model, TEXT * 40, (layer,), max_tokens=4000)[layer]
    torch.testing.assert_close(fisher, fisher.T)
    base = _log_probs(model, {})
    ids, _ = pad_right(model, text_ids(model, TEXT, most=64))
    generator = torch.Generator().manual_seed(1)
    size, found = 1e-2 * model.d**0.5, []
    for _ in range(40):
        change = size * torch.randn(*ids.shape, model.d, generator=generator) / model.d**0.5
        moved = _log_probs(model, {layer: change})
        found.append(float((base.exp() * (base - moved)).sum(-1).mean()))
    expected = 0.5 * size**2 / model.d * float(fisher.trace())
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_has_fisher_matrices(family: str) -> None:
    found = damage.compute(make_model(family), TEXT[:2], LAYERS, max_tokens=20)
    assert tuple(found) == LAYERS
    for matrix in found.values():
        assert bool(torch.isfinite(matrix).all())
        assert float(matrix.trace()) > 0.0


def test_a_root_whitens_its_fisher_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    fisher = gradients.T @ gradients / 200
    root = damage.inverse_root(fisher, AdapleConfig(metric_floor=1e-9)).double()
    torch.testing.assert_close(
        root @ fisher @ root, torch.eye(8, dtype=torch.float64), rtol=1e-4, atol=1e-4
    )
    plain = damage.inverse_root(fisher, AdapleConfig(metric_floor=1e-9, metric="euclidean"))
    expected = float(fisher.trace() / 8) ** -0.5 * torch.eye(8)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)


def test_fisher_matrices_are_cached_and_need_the_base_weights(resources: TextResources) -> None:
    model = make_model("llama")
    first = damage.gather(model, CONFIG, resources)
    assert tuple(first) == LAYERS
    model.set_down_weight(1, model.down_weight(1) + 1.0)
    again = damage.gather(model, CONFIG, resources)
    assert all(torch.equal(first[layer], again[layer]) for layer in LAYERS)
    for file in resources.cache_dir.glob("fisher-*"):
        file.unlink()
    with pytest.raises(PreconditionError, match="already carries edits"):
        damage.gather(model, CONFIG, resources)
    assert damage.gather(model, AdapleConfig(), resources) == {}  # `top` needs none


def _problem(
    model: CausalLM, edits: tuple[Edit, ...] = DIRECT
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Fisher matrices with the floor, and κ, of both layers."""
    generator = torch.Generator().manual_seed(0)
    draws = {layer: torch.randn(99, model.d, generator=generator).double() for layer in LAYERS}
    fisher = {layer: 1e-3 * draw.T @ draw / 99 for layer, draw in draws.items()}
    whitened = {layer: 40.0 + torch.arange(len(edits)) + layer for layer in LAYERS}
    return fisher, whitened


def _reachable(model: CausalLM, edit: Edit, rank: int) -> Edit:
    """The edit with a target of one token that is about the `rank`-th likeliest now.

    A random model cannot make every token the likeliest.
    """
    row = tokenise(model, edit.prompt)
    with torch.no_grad():
        order = model.model(torch.tensor([row.ids])).logits[0, -1].argsort(descending=True)
    for token in order[rank:].tolist():
        found = replace(edit, target=model.tokenizer.decode([token]), separator="")
        if found.target.strip() and found.target.isascii():
            ids = tokenise(model, found.prompt, found.target, stated="").ids
            if ids == (*row.ids, token):
                return found
    raise AssertionError("no token can be spelled")


def test_the_cost_is_the_predicted_damage_and_the_target_becomes_the_likeliest() -> None:
    model = make_model("llama")
    edits = tuple(_reachable(model, edit, 3) for edit in DIRECT)
    config = CONFIG.model_copy(update={"stop_loss": 50.0, "step_length": 0.01})
    fisher, whitened = _problem(model)
    roots = {layer: damage.inverse_root(value, config) for layer, value in fisher.items()}
    found = optimise_changes(model, edits, ("{}",), config, roots, whitened)
    expected = torch.zeros(2, dtype=torch.float64)
    for layer, value in found.values.items():
        floor = config.metric_floor * fisher[layer].diagonal().mean()
        matrix = fisher[layer] + floor * torch.eye(model.d)
        own = value.double()
        expected += 0.5 * ((own @ matrix) * own).sum(-1) / whitened[layer]
    torch.testing.assert_close(found.cost.double(), expected, rtol=1e-3, atol=1e-9)
    assert 0 < found.steps < config.steps, "each edit stopped"
    problem = TargetProblem(model, edits, ("{}",), config, LAYERS[0])
    changes = {model.down(layer): value for layer, value in found.values.items()}
    with torch.no_grad():
        outcome = problem.outcome(changes)
        unchanged = problem.outcome({})
    assert outcome.num_wrong.tolist() == [0.0, 0.0]
    assert unchanged.num_wrong.tolist() == [1.0, 1.0], "control"
    torch.testing.assert_close(found.loss, outcome.loss, rtol=1e-3, atol=1e-4)


def test_a_layer_to_which_text_is_sensitive_takes_little_part() -> None:
    model = make_model("llama")
    fisher, whitened = _problem(model)

    def shares(factor: float) -> list[float]:
        scaled = {1: factor * fisher[1], 2: fisher[2]}
        roots = {layer: damage.inverse_root(value, CONFIG) for layer, value in scaled.items()}
        found = optimise_changes(model, DIRECT, ("{}",), CONFIG, roots, whitened)
        norms = [found.values[layer].norm(dim=-1) for layer in LAYERS]
        return (norms[0] / norms[1]).tolist()

    for less, more in zip(shares(100.0), shares(1.0), strict=True):
        assert less < 0.3 * more


def test_an_edit_that_already_holds_changes_nothing() -> None:
    model = make_model("llama")
    edit = _reachable(model, DIRECT[0], 0)
    fisher, whitened = _problem(model, (edit,))
    roots = {layer: damage.inverse_root(value, CONFIG) for layer, value in fisher.items()}
    config = CONFIG.model_copy(update={"stop_loss": 100.0})
    found = optimise_changes(model, (edit,), ("{}",), config, roots, whitened)
    assert found.steps == 0
    assert all(not bool(value.any()) for value in found.values.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_commit_makes_the_targets_likely(family: str, resources: TextResources) -> None:
    model = make_model(family)
    bench = adaple_bench(model, CONFIG, resources)

    def losses() -> list[float]:
        problem = TargetProblem(model, DIRECT, ("{}",), CONFIG, LAYERS[0])
        with torch.no_grad():
            return problem.outcome({}).loss.tolist()

    before = losses()
    result = bench.lane.fit(EditBatch(DIRECT, seed=1))
    assert losses() == before
    torch.testing.assert_close(
        result.artifact.tensors["gains"], torch.ones(2, 2), rtol=0.05, atol=0.05
    )
    names = tuple(edit.name for edit in DIRECT)
    bench.lane.prepare(Commit(2, names, result.artifact, result.memory)).apply()
    assert all(now < old - 1.0 for now, old in zip(losses(), before, strict=True))


def test_a_later_attempt_is_stronger() -> None:
    stronger = CONFIG.for_attempt(1)
    assert stronger.step_length == 2 * CONFIG.step_length
    assert stronger.steps == 2 * CONFIG.steps
    assert stronger.stop_loss == CONFIG.stop_loss / 2
    assert stronger.resolve_lambda(64) == CONFIG.resolve_lambda(64)
    assert stronger.num_prefixes == CONFIG.num_prefixes
    assert CONFIG.for_attempt(LAST_ATTEMPT).num_prefixes == 0, "better one wording than none"


def test_new_lanes_have_the_lasting_values_and_presets_are_whole() -> None:
    new = METHOD.config.model_validate(METHOD.values("", {"gain": 2.0}))
    assert (new.optimise, new.variant, new.gain) == ("layers", "equality", 2.0)
    paper = METHOD.config.model_validate(METHOD.values("paper", {}))
    assert (paper.optimise, paper.variant, paper.drop) == ("top", "printed", 0.8)
    tops = ({"variant": "printed"}, {"target": "hidden"}, {"spread": "linear"}, {"optimise": "top"})
    for values in tops:
        own = METHOD.config.model_validate(METHOD.values("", values))
        assert own == METHOD.config.model_validate(values), "an option of `top` means `top`"
    stated = METHOD.values("", {"optimise": "layers", "clamp": 0.5})
    assert stated == {**LASTING, "clamp": 0.5}
    assert AdapleConfig().optimise == "top", "what lanes had before the option existed"


def test_the_probes_return_to_the_first_layer() -> None:
    model = make_model("llama")
    probes = KeyProbes(model, make_batch().edits, ("{}", "You know. {}"), CONFIG, LAYERS)
    first = probes.keys()
    probes.advance(2)
    second = probes.keys()
    probes.rewind()
    assert torch.equal(probes.keys(), first)
    probes.advance(2)
    assert torch.equal(probes.keys(), second)
    assert not torch.equal(first, second)


def test_a_lane_warns_from_four_fifths_of_what_it_holds_on(resources: TextResources) -> None:
    config = CONFIG.model_copy(update={"capacity": 2, "steps": 2})
    bench = adaple_bench(make_model("llama"), config, resources)
    assert bench.lane.report().warnings == ()
    commit = bench.edit(("Nokia", "y"))
    assert bench.lane.report().sizes == {"edits": 1, "capacity": 2}
    assert bench.lane.report().warnings == ()
    bench.edit(("Toyota", "x"))
    (warning,) = bench.lane.report().warnings
    assert "2 of about 2 edits" in warning
    assert "recipe or lemoe" in warning
    bench.revert(*commit.edits)
    assert bench.lane.report().warnings == ()
    wide = AdapleConfig(optimise="layers").resolve_capacity(5, 1000)
    assert (
        wide > AdapleConfig().resolve_capacity(5, 1000) > AdapleConfig().resolve_capacity(4, 1000)
    )
