"""Every family: the engine equals transformers, all four methods edit, and the rest is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.keys import KeyProbes, Probe, prompt_rows
from errata.editing.adaple.lane import AdapleLane
from errata.editing.adaple.targets import TargetProblem
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.elder import peft
from errata.editing.lane.claims import NO_CLAIM
from errata.editing.lane.commits import Commit, Reversal
from errata.editing.lane.contract import Lane
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.families import SUPPORTED, family_of
from errata.editing.model.prompts import tokenise
from errata.editing.model.weights import EditedWeights
from errata.engine import offline
from errata.errors import InvalidRequestError, UnsupportedModelError
from errata.indices.faiss_indices import FaissIndices
from tests.unit.editing import elder_models, lemoe_models, recipe_models
from tests.unit.editing.tiny_models import (
    ALL_FAMILIES,
    TextResources,
    make_model,
    make_tokenizer,
)
from tests.unit.engine.helpers import KINDS, Synthetic

every_family = pytest.mark.parametrize("family", ALL_FAMILIES)
PROMPTS = (
    "I know Nokia",
    "Toyota",
    "Because the capital of Finland is Helsinki, I was told that it rains",
    "Lyon is twinned with",
)
# An untrained model hardly carries anything from one token to another, so the subject is last.
EDITS = (Edit("edits/2-0", PROMPTS[0], "know", "Nokia"),)
TOLERANCE = 1e-3  # nats


def _own_log_probs(model: CausalLM, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities (T, V) of transformers' own forward."""
    hf: Any = model.model
    with torch.no_grad():
        return hf(torch.tensor([ids])).logits[0].float().log_softmax(-1)


@every_family
def test_the_engine_equals_transformers_in_a_batch_of_unequal_lengths(family: str) -> None:
    model = make_model(family)
    prompts = [tokenise(model, prompt).ids for prompt in PROMPTS]
    made = offline.generate(model, prompts, 8)
    scored, _ = offline.score(model, prompts, made)
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    for prompt, answer, score in zip(prompts, made, scored, strict=True):
        own = _own_log_probs(model, [*prompt, *answer])[len(prompt) - 1 : -1]
        chosen = own.gather(1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(score), chosen, atol=TOLERANCE, rtol=0)
        assert (own.amax(-1) - chosen).max() < TOLERANCE, "the answer is transformers' greedy one"
    assert len(set(made)) == len(made), "control: answers depend on the prompts"


ADAPLE = AdapleConfig(
    layers=(1, 2),
    num_prefixes=0,
    steps=20,
    clamp=4.0,
    step_size=0.3,
    lam=1e-4,
    covariance_samples=10,
)
ELDER = elder_models.SMALL.model_copy(update={"steps": 20, "num_contexts": 0})
LEMOE = lemoe_models.SMALL.model_copy(update={"steps": 20, "num_contexts": 0})
METHODS = ("adaple", "elder", "lemoe", "recipe")


def _lane(method: str, model: CausalLM, resources: TextResources) -> Lane:
    """A lane that is ready to fit."""
    lane: Lane
    if method == "recipe":
        return recipe_models.make_lane(model)
    if method == "elder":
        lane = elder_models.new_lane(model, ELDER)
    elif method == "lemoe":
        lane = lemoe_models.new_lane(model, LEMOE)
    else:
        lane = _adaple_lane(model, ADAPLE)
    lane.gather(resources)
    return lane


def _adaple_lane(model: CausalLM, config: AdapleConfig) -> AdapleLane:
    weights = EditedWeights(model)
    return AdapleLane(model, config, weights, name="lanes/main", indices=FaissIndices())


def _scores(model: CausalLM, plans: Sequence[RowPlan] | None) -> torch.Tensor:
    """Log-probabilities of the edit's target after all prompts, in one batch."""
    rows = [tokenise(model, prompt).ids for prompt in PROMPTS]
    target = tokenise(model, PROMPTS[0], EDITS[0].target).ids[len(rows[0]) :]
    return torch.tensor(offline.score(model, rows, [target] * len(rows), plans)[0])[:, 0]


def _edited_scores(model: CausalLM, lane: Lane) -> torch.Tensor:
    """As `_scores`, where the edit claims its own prompt.

    The random lane model of RECIPE would let it claim others, too.
    """
    view = lane.view()
    if view is None:
        return _scores(model, None)
    (claim, *_) = view.claims(PROMPTS)
    assert claim.holds
    return _scores(model, view.plans([claim, *[NO_CLAIM] * (len(PROMPTS) - 1)]))


@every_family
@pytest.mark.parametrize("method", METHODS)
def test_an_edit_takes_effect_on_a_replica_and_is_reverted(
    family: str, method: str, resources: TextResources
) -> None:
    model, replica = make_model(family), make_model(family)
    lane, other = (_lane(method, llm, resources) for llm in (model, replica))
    before = _scores(model, None)
    # A later attempt of RECIPE refines its prompt, which this untrained lane model needs.
    fitted = lane.fit(EditBatch(EDITS, seed=1, attempt=2 if method == "recipe" else 0))
    assert model.current_digest() == model.digest, "a fit restores the model"
    name = EDITS[0].name
    commit = Commit(2, (name,), Artifact.from_bytes(fitted.artifact.to_bytes()))
    for each in (lane, other):
        each.prepare(commit).apply()
    after = _edited_scores(model, lane)
    assert torch.equal(_edited_scores(replica, other), after)
    assert after[0] > before[0] + 0.5, "nats"
    if method != "adaple":
        torch.testing.assert_close(after[1:], before[1:], atol=TOLERANCE, rtol=0)
    lane.prepare(Reversal((name,))).apply()
    assert torch.equal(_scores(model, None), before)
    if (view := lane.view()) is not None:
        assert not view.claims(PROMPTS)[0].holds


@every_family
def test_rows_with_all_effects_in_one_batch_equal_single_rows(family: str) -> None:
    """Effects at up and down projections, in the embeddings and beside the FFN."""
    model = make_model(family)
    synthetic = Synthetic(model)
    plans = [synthetic.plan(kind) for kind in KINDS]
    prompts = [tokenise(model, prompt).ids for prompt in PROMPTS]
    made = offline.generate(model, prompts, 6, plans=plans)
    together, _ = offline.score(model, prompts, made, plans)
    base, _ = offline.score(model, prompts, made)
    for number, plan in enumerate(plans):
        row, answer = [prompts[number]], [made[number]]
        assert offline.generate(model, row, 6, plans=[plan]) == answer
        alone, _ = offline.score(model, row, answer, [plan])
        assert together[number] == pytest.approx(alone[0], abs=TOLERANCE)
        pairs = zip(together[number], base[number], strict=True)
        largest = max(abs(edited - plain) for edited, plain in pairs)
        assert (largest > 10 * TOLERANCE) is (plan is not BASE), "control"


# A norm, a multiplier, or nothing, between the down projection and the residual stream.
@pytest.mark.parametrize("family", ["gemma2", "olmo2", "glm4", "granite", "opt", "cohere"])
def test_a_weight_that_gives_the_target_value_has_the_loss_of_the_optimisation(family: str) -> None:
    model, layer = make_model(family), 2
    config = ADAPLE.model_copy(update={"layers": (layer,), "kl_weight": 0.0})
    probes = KeyProbes(model, EDITS, ("{}",), config, (layer,))
    value, _ = probes.values()
    keys: list[torch.Tensor] = []
    handle = model.down(layer).register_forward_pre_hook(lambda _, args: keys.append(args[0]))
    _own_log_probs(model, tokenise(model, PROMPTS[0]).ids)
    handle.remove()
    delta = 3.0 * torch.randn(1, model.d, generator=torch.Generator().manual_seed(1))
    expected, _ = TargetProblem(model, EDITS, ("{}",), config, layer).loss(None, delta)
    before = _scores(model, None)[0]
    # The weight that maps the subject's key to value + delta, and the other tokens' as before.
    direction = keys[0].reshape(-1, model.d_ff).pinverse()[:, -1:]  # (d_ff, 1)
    model.set_down_weight(layer, model.down_weight(layer) + delta.T @ direction.T)
    torch.testing.assert_close(-_scores(model, None)[:1], expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(probes.values()[0], value + delta, atol=1e-3, rtol=1e-3)
    assert abs(before + expected) > 10 * TOLERANCE, "control"


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "glm4", "granite", "llama"])
def test_gains_convert_between_outputs_and_the_residual_stream(family: str) -> None:
    model, layer = make_model(family), 2
    probe = Probe(model, prompt_rows(model, EDITS, ("{}",))[0], (layer,))
    small = 1e-3 * torch.randn(64, model.d, generator=torch.Generator().manual_seed(1))
    modules = model.down(layer), model.attention(layer)
    _, base = probe.values()
    for number, (module, gain) in enumerate(zip(modules, probe.gains(layer), strict=True)):
        ratios = []
        for delta in small:
            handle = module.register_forward_hook(partial(_moved, delta))
            moved = probe.values()[1] - base
            handle.remove()
            ratios.append(float(delta.norm() / moved.norm()))
        if number == 0 and model.adds_plainly:
            assert float(gain) == 1.0
        # An attention's change also passes the FFN, which no gain includes.
        share = 0.3 if number == 0 else 0.6
        assert float(torch.tensor(ratios).median()) == pytest.approx(float(gain), rel=share)


def _moved(delta: torch.Tensor, _: nn.Module, __: Any, output: Any) -> Any:
    return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta


def test_a_hidden_target_is_refused_where_outputs_are_not_added_as_they_are() -> None:
    config = ADAPLE.model_copy(update={"target": "hidden"})
    for family in ("gemma3", "granite", "exaone4"):
        model = make_model(family)
        name = type(model.model).__name__
        with pytest.raises(InvalidRequestError, match=f"{name} has a norm or a multiplier.*ffn"):
            _adaple_lane(model, config)
    _adaple_lane(make_model("opt"), config)


def test_a_fused_projection_cannot_be_exported_as_an_adapter(tmp_path: Path) -> None:
    model = make_model("phi3")
    config = ELDER.model_copy(update={"projection": "up"})
    experts = elder_models.make_experts(model, config)
    with pytest.raises(InvalidRequestError, match=r"gate and up in one projection.*'down'"):
        peft.export(model, experts, tmp_path, "base")
    peft.export(model, elder_models.make_experts(model, ELDER), tmp_path, "base")


_SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
# Architecture → its other fields, and what the error names.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({}, "BloomForCausalLM.*gelu_impl"),
    "falcon": ({"alibi": True}, "FalconForCausalLM.*alibi=True"),
    "gpt_neo": (
        {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
        "GPTNeoForCausalLM.*layers of kind local",
    ),
    "mamba": ({}, "MambaForCausalLM.*backbone"),
    "mixtral": ({"num_local_experts": 2}, "MixtralForCausalLM.*experts"),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, "MptForCausalLM"),
    "opt": ({"word_embed_proj_dim": 16, "ffn_dim": 48}, "OPTForCausalLM.*width 16"),
    "qwen2_moe": ({"num_experts": 2, "moe_intermediate_size": 8}, "Qwen2MoeForCausalLM.*experts"),
    "qwen3_5_text": (
        {"layer_types": ["linear_attention", "full_attention"]},
        "Qwen3_5ForCausalLM.*linear_attn",
    ),
    "vaultgemma": ({}, "VaultGemmaForCausalLM.*pre_feedforward_layernorm"),
}


@pytest.mark.parametrize("architecture", REFUSED)
def test_other_structures_are_refused_by_name_with_what_is_supported(architecture: str) -> None:
    fields, expected = REFUSED[architecture]
    sizes = {} if architecture == "falcon" else {"head_dim": 8}
    config = AutoConfig.for_model(architecture, **{**_SIZES, **sizes, **fields})
    with pytest.raises(UnsupportedModelError, match=expected) as caught:
        CausalLM(AutoModelForCausalLM.from_config(config), make_tokenizer())
    assert all(name in caught.value.message for name in SUPPORTED)


def test_a_multimodal_wrapper_is_refused_by_name() -> None:
    config = Gemma3Config(
        text_config=_SIZES,
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    )
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    with pytest.raises(UnsupportedModelError, match=r"Gemma3ForConditional.*Gemma 1 to 3"):
        family_of(model)


class _Other(nn.Module):
    """A module with the same children, and another result."""

    def __init__(self, module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        for name, child in module.named_children():
            setattr(self, name, child)
        object.__setattr__(self, "own", module)
        self.change = change

    def forward(self, hidden: torch.Tensor, **inputs: Any) -> Any:
        own: Any = self.own  # type: ignore[attr-defined] # set past nn.Module
        return self.change(own(hidden, **inputs))


class _Doubled(_Other):
    """An FFN that doubles what enters its down projection."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, lambda out: out)

    def forward(self, hidden: torch.Tensor, **inputs: Any) -> Any:
        ffn: Any = self
        return ffn.down_proj(2 * ffn.act_fn(ffn.gate_proj(hidden)) * ffn.up_proj(hidden))


def test_modules_with_known_names_that_compute_something_else_are_refused() -> None:
    def llama() -> Any:
        return make_model("llama").model

    model = llama()
    model.model.layers[1] = _Other(model.model.layers[1], lambda out: 1.1 * out)
    with pytest.raises(UnsupportedModelError, match="block 1 adds something else"):
        CausalLM(model, make_tokenizer())
    model = llama()
    model.model.layers[2].mlp = _Doubled(model.model.layers[2].mlp)
    with pytest.raises(UnsupportedModelError, match="the FFN of layer 2 computes something else"):
        CausalLM(model, make_tokenizer())
    model = llama()
    model.model.layers[2].mlp.down_proj = nn.Sequential(model.model.layers[2].mlp.down_proj)
    with pytest.raises(UnsupportedModelError, match="layer 2 is a Sequential, not a plain linear"):
        CausalLM(model, make_tokenizer())
