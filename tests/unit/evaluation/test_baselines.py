"""Baselines against their published definitions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from records import records

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.sampling import GREEDY
from errata.errors import InvalidRequestError
from errata.evaluation.baselines import BASELINES, LANE_VARIANTS, MEMIT
from errata.evaluation.baselines.ft_l import ConstrainedFineTuning, FtlConfig
from errata.evaluation.baselines.grace import Codebook, Grace, GraceConfig
from errata.evaluation.baselines.none import NoEditing, NothingConfig
from errata.evaluation.baselines.retrieval_prompt import RetrievalPrompt, RetrievalPromptConfig
from errata.evaluation.baselines.ultraedit import Moments, UltraEdit, UltraEditConfig, shift
from errata.evaluation.data.record import Record
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.system_factory import SystemFactory
from errata.evaluation.systems import System

PAIRS = [(record.prompt, record.target_new) for record in records()]
CPU = torch.device("cpu")


def _mean_log_prob(system: System) -> float:
    return sum(item.mean_log_prob for item in system.score(PAIRS)) / len(PAIRS)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_reset_restores_the_base_model(llama: CausalLM, name: str) -> None:
    before = llama.current_digest()
    system = BASELINES[name].make(llama, BASELINES[name].config())
    scored, size = system.score(PAIRS), system.state_bytes
    assert system.edit(records()).num_rejected == 0
    if name != "none":
        assert system.score(PAIRS) != scored
    system.reset()
    assert system.score(PAIRS) == scored
    assert llama.current_digest() == before
    assert system.state_bytes == size


def test_no_editing_does_nothing(llama: CausalLM) -> None:
    system = NoEditing(llama, NothingConfig())
    before = system.score(PAIRS)
    system.edit(records())
    assert system.score(PAIRS) == before
    assert system.state_bytes == 0


def test_ft_l_moves_one_matrix_and_stays_within_its_bound(llama: CausalLM) -> None:
    names = {name: value.clone() for name, value in llama.model.named_parameters()}
    config = FtlConfig(layer=1, bound=1e-3, learning_rate=5e-3)
    system = ConstrainedFineTuning(llama, config)
    before = _mean_log_prob(system)
    system.edit(records())
    changed = {
        name: (value - names[name]).abs().max().item()
        for name, value in llama.model.named_parameters()
        if not torch.equal(value, names[name])
    }
    assert len(changed) == 1
    ((name, largest),) = changed.items()
    assert "layers.1.mlp.down_proj" in name
    assert largest == pytest.approx(1e-3, rel=1e-3), "25 steps of 5e-3 would go much further"
    assert _mean_log_prob(system) > before
    assert not any(value.requires_grad for value in llama.model.parameters())


def test_ft_l_takes_the_gradient_of_the_mean_nll_of_the_answers(llama: CausalLM) -> None:
    step = 1e-4
    weight = llama.down(2).get_parameter("weight")
    start = weight.detach().clone()
    nll = torch.zeros(())
    weight.requires_grad_(True)
    with torch.enable_grad():
        for record in records():
            row = tokenise(llama, record.prompt, record.target_new)
            logits = llama.model(torch.tensor([row.ids])).logits[0]
            spots = range(len(row.ids) - row.num_target, len(row.ids))
            nll = nll - sum(logits[j - 1].log_softmax(-1)[row.ids[j]] for j in spots) / (
                row.num_target * len(records())
            )
        (gradient,) = torch.autograd.grad(nll, weight)
    weight.requires_grad_(False)
    system = ConstrainedFineTuning(
        llama, FtlConfig(layer=2, steps=1, learning_rate=step, bound=1.0)
    )
    system.edit(records())
    # Adam's first step is the sign of the gradient, wherever that is clearly not 0.
    clear = gradient.abs() > 1e-5
    assert clear.float().mean() > 0.5
    moved = (weight.detach() - start)[clear]
    torch.testing.assert_close(moved, -step * gradient[clear].sign(), rtol=1e-2, atol=1e-6)


def test_ft_l_stops_when_it_is_good_enough(llama: CausalLM) -> None:
    before = llama.current_digest()
    ConstrainedFineTuning(llama, FtlConfig(stop_loss=1e6)).edit(records())
    assert llama.current_digest() == before


def _book(*entries: tuple[float, str]) -> Codebook:
    book = Codebook(1, 1, CPU)
    for key, answer in entries:
        book.add(torch.tensor([key]), answer, 1.0)
    return book


def test_grace_adds_a_key_out_of_reach() -> None:
    book = _book((0.0, "a"), (3.0, "b"))
    assert book.keys[:, 0].tolist() == [0.0, 3.0]
    assert book.radii.tolist() == [1.0, 1.0]


def test_grace_widens_the_ball_of_the_same_answer() -> None:
    book = _book((0.0, "a"), (1.5, "a"))
    assert book.keys[:, 0].tolist() == [0.0]
    assert book.radii.tolist() == [1.5]
    assert not book.add(torch.tensor([0.5]), "a", 1.0)
    assert book.radii.tolist() == [1.5], "a ball never shrinks for its own answer"


def test_grace_splits_two_answers_half_way() -> None:
    book = _book((0.0, "a"), (1.5, "b"))
    assert book.keys[:, 0].tolist() == [0.0, 1.5]
    assert book.radii.tolist() == [0.75, 0.75]


def test_grace_defers_outside_the_nearest_ball() -> None:
    book = _book((0.0, "a"), (10.0, "b"))
    book.values = torch.tensor([[1.0], [2.0]])
    reached, values = book.look_up(torch.tensor([[0.9], [1.1], [9.5]]))
    assert reached.tolist() == [True, False, True]
    assert values[:, 0].tolist() == [1.0, 1.0, 2.0]


def _one_token_answers() -> list[Record]:
    """One value at one token cannot steer a random model further than to the next token."""
    words = ("is", "the", "in", "and")
    return [replace(r, target_new=word) for r, word in zip(records(), words, strict=True)]


def test_grace_answers_its_edits_and_leaves_the_rest_alone(llama: CausalLM) -> None:
    system = Grace(llama, GraceConfig(layer=2, epsilon=1e-3))
    edits = _one_token_answers()
    other = [("Zürich liegt in der", "Schweiz"), ("The capital of Finland is", "Helsinki")]
    before = system.score(other)
    digest = llama.current_digest()
    system.edit(edits[:2])
    system.edit(edits[2:])
    now = system.score([(record.prompt, record.target_new) for record in edits])
    assert [item.argmax_ids for item in now] == [item.token_ids for item in now]
    assert system.score(other) == before
    assert llama.current_digest() == digest
    n = len(edits)
    assert system.state_bytes == 4 * n * (llama.d_ff + 1 + llama.d)


def test_grace_replaces_at_the_prompts_end_also_when_it_generates(llama: CausalLM) -> None:
    record = _one_token_answers()[0]
    system = Grace(llama, GraceConfig(layer=2, epsilon=1e-3))
    (before,) = system.generate(["Lyon"], 3, [GREEDY])
    system.edit([record])
    edited, other = system.generate([record.prompt, "Lyon"], 3, [GREEDY, GREEDY])
    assert edited.strip().startswith(record.target_new)
    assert other == before
    system.reset()
    assert system.generate([record.prompt], 3, [GREEDY]) != [edited]


def test_retrieval_puts_the_nearest_statement_before_the_query(llama: CausalLM) -> None:
    system = RetrievalPrompt(llama, RetrievalPromptConfig())
    assert system.with_statements(["Lyon is in"]) == ["Lyon is in"]
    system.edit(records())
    assert system.with_statements(["Where is Toyota?", "xyzzy"]) == [
        "Toyota is in Finland. Where is Toyota?",
        "xyzzy",
    ]
    system.edit([replace(records()[0], target_new="Beirut")])
    corrected = system.with_statements(["Lyon is in"])
    assert corrected == ["Lyon is in Beirut. Lyon is in"], "the later of two corrections"
    careful = RetrievalPrompt(llama, RetrievalPromptConfig(threshold=0.99))
    careful.edit(records())
    assert careful.with_statements(["Where is Toyota?"]) == ["Where is Toyota?"]


def test_retrieval_scores_what_follows_statement_and_query(llama: CausalLM) -> None:
    system = RetrievalPrompt(llama, RetrievalPromptConfig())
    system.edit(records())
    plain = NoEditing(llama, NothingConfig())
    assert system.score([("Pisa is in", "blue")]) == plain.score(
        [("Pisa is in blue. Pisa is in", "blue")]
    )


@pytest.mark.parametrize("name", ["ft-l", "grace"])
def test_a_layer_that_does_not_exist_is_refused(llama: CausalLM, name: str) -> None:
    baseline = BASELINES[name]
    with pytest.raises(InvalidRequestError, match="layer 4 does not exist"):
        baseline.make(llama, baseline.config.model_validate({"layer": 4}))


def test_memit_is_adaples_closed_form_on_hidden_states(tmp_path: object) -> None:
    plan = Plan("memit", "counterfact", data=None, out=None, model="m")  # type: ignore[arg-type]
    config = SystemFactory(plan).config({}).model_dump()
    assert {key: config[key] for key in MEMIT} == dict(MEMIT)
    assert (config["variant"], config["target"], config["spread"]) == ("memit", "hidden", "linear")
    assert (config["fusion"], config["drop"], config["covariance"]) == ("none", 0.0, "fixed")


def test_lane_variants_do_not_take_the_defaults_of_new_lanes() -> None:
    def config(method: str) -> dict[str, object]:
        plan = Plan(method, "counterfact", data=None, out=None, model="m")  # type: ignore[arg-type]
        return SystemFactory(plan).config({}).model_dump()

    for method in LANE_VARIANTS:
        assert config(method)["optimise"] == "top"
    assert config("adaple")["optimise"] == "layers"
    pmet, memit = config("pmet"), config("memit")
    assert (pmet["target"], pmet["spread"], pmet["attention_delta"]) == ("ffn", "sqrt", True)
    assert config("pmet-accumulated") == {**pmet, "covariance": "accumulate"}
    assert config("memit-accumulated") == {**memit, "covariance": "accumulate"}
    assert config("alphaedit")["variant"] == "nullspace"
    assert config("rome")["num_layers"] == 1


def test_ultraedits_moments_are_those_of_all_rows() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joined = Moments.of(rows[:7]).joined(Moments.of(rows[7:9])).joined(Moments.of(rows[9:]))
    whole = Moments.of(rows)
    torch.testing.assert_close(joined.mean, whole.mean)
    torch.testing.assert_close(joined.variance, whole.variance)
    assert joined.count == 30
    torch.testing.assert_close(whole.normalised(rows).std(0, correction=0), torch.ones(4).double())


def test_ultraedits_shift_solves_its_normal_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    moments = Moments.of(torch.cat([inputs, gradients], 1))
    config = UltraEditConfig(step=0.3, ridge=0.7)
    normal = moments.normalised(torch.cat([inputs, gradients], 1))
    wanted = -0.3 * (inputs * normal[:, :9]).sum(1, keepdim=True) * normal[:, 9:]
    stacked = torch.cat([inputs, 0.7**0.5 * torch.eye(9, dtype=torch.float64)])
    target = torch.cat([wanted, torch.zeros(9, 5, dtype=torch.float64)])
    expected = torch.linalg.lstsq(stacked, target).solution.T
    torch.testing.assert_close(shift(inputs, gradients, moments, config), expected)


def test_ultraedit_raises_the_answers_probability_along_the_gradient(llama: CausalLM) -> None:
    system = UltraEdit(llama, UltraEditConfig(layers=(1, 2, 3), step=1e-3))
    before = _mean_log_prob(system)
    untouched = llama.down_weight(0).clone()
    system.edit(records())
    assert _mean_log_prob(system) > before
    assert torch.equal(llama.down_weight(0), untouched)
