"""Training of a lane model: losses, stages, resumption, validation, determinism."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever import objective, training
from errata.editing.retriever.examples import Sample, split
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.objective import LOSSES, PooledFacts, losses, scope_losses
from errata.editing.retriever.start import initialise_prompts, initialise_retriever, new_lane_model
from errata.editing.retriever.training import Progress, Trainer
from errata.editing.retriever.training_config import PRESETS, TrainingConfig
from errata.editing.retriever.validation import calibrated, validate
from errata.errors import FitError, InvalidRequestError, PreconditionError
from tests.unit.editing.recipe_models import D_R, examples_of_towns, make_lane_model

TINY = TrainingConfig(
    d_r=D_R, width=32, depth=1, max_tokens=32, batch=4, num_validation=4, evaluate_every=3,
    max_steps=6, warmup_steps=1, learning_rate=3e-3, encoder_learning_rate=1e-3, alike=2,
    stages="joint", locality_weight=0.2, answered=0.0,
)  # fmt: skip
SCALE = torch.tensor(D_R**-0.5)


def _trainer(llama: CausalLM, out: Path, config: TrainingConfig = TINY) -> Trainer:
    return Trainer(llama, new_lane_model(llama, None, config), examples_of_towns(), config, out)


def test_training_reduces_losses(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"max_steps": 60, "evaluate_every": 60, "alike": 1})
    trainer = _trainer(llama, tmp_path / "out", config)
    seen: list[Progress] = []
    trainer.run(seen.append)
    first, last = seen[2].losses, seen[-1].losses
    # `neighbour` and `sentinel` compete for the same keys: with few facts, only their sum falls
    assert sum(last.values()) < sum(first.values()) - 1
    for name in ("outside", "reliability", "generality"):
        assert last[name] < first[name], name
    assert math.isclose(seen[-1].done, 1)
    assert [stand.step for stand in seen] == list(range(1, 61))


def test_the_retriever_is_constant_in_the_stage_of_the_prompts(
    llama: CausalLM, tmp_path: Path
) -> None:
    config = TINY.model_copy(
        update={
            "stages": "apart",
            "retriever_share": 0.75,
            "scope_share": 0.0,
            "max_steps": 16,
            "evaluate_every": 1,
        }
    )
    trainer = _trainer(llama, tmp_path / "out", config)
    states: dict[int, dict[str, torch.Tensor]] = {}
    trained: dict[int, set[str]] = {}

    def note(stand: Progress) -> None:
        states[stand.step] = {n: t.clone() for n, t in trainer.model.state_dict().items()}
        trained[stand.step] = set(stand.losses)

    trainer.run(note)
    assert trained[12] == {"neighbour", "sentinel", "outside"}
    assert trained[16] == set(LOSSES)
    rows = list(csv.DictReader((tmp_path / "out/training.csv").read_text().splitlines()))
    claims = {
        int(row["step"]): _harmonic(float(row["claimed_right"]), 1 - float(row["claimed_wrongly"]))
        for row in rows[:12]
    }
    best = max(claims, key=lambda step: claims[step])  # the first of equal ones
    assert best not in (1, 12), "otherwise this shows nothing"
    for first, second, part in ((1, 12, "prompt_mlp"), (best, 16, "")):
        for name in states[first]:
            same = torch.equal(states[first][name], states[second][name])
            is_prompts = name.startswith("prompt_mlp") and not name.endswith("scale")
            if part:
                assert same or not is_prompts, f"{name} changes only in its stage"
            else:
                assert same is not is_prompts or "copy" in name, name


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a and b else 0.0


@pytest.mark.parametrize("stages", ["joint", "apart"])
@pytest.mark.parametrize("interrupted_at", [3, 4])
def test_an_interrupted_training_gives_the_same_bits(
    llama: CausalLM, tmp_path: Path, interrupted_at: int, stages: str
) -> None:
    config = TINY.model_copy(update={"stages": stages})
    whole = _trainer(llama, tmp_path / "whole", config)
    whole.run()

    def interrupt(stand: Progress) -> None:
        if stand.step == interrupted_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _trainer(llama, tmp_path / "parts", config).run(interrupt)
    steps: list[int] = []
    _trainer(llama, tmp_path / "parts", config).run(lambda stand: steps.append(stand.step))
    assert steps == [4, 5, 6], "resumes after the checkpoint"
    for name in ("lane_model.safetensors", "training.csv"):
        first, second = ((tmp_path / x / name).read_bytes() for x in ("whole", "parts"))
        if name.endswith("csv"):
            first, second = (_without_seconds(text.decode()) for text in (first, second))
        assert first == second, name


def _without_seconds(text: str) -> bytes:
    rows = list(csv.DictReader(text.splitlines()))
    return repr([{k: v for k, v in row.items() if k != "seconds"} for row in rows]).encode()


def test_the_encoders_dropout_is_a_setting(llama: CausalLM, tmp_path: Path) -> None:
    for dropout in (False, True):
        config = TINY.model_copy(update={"dropout": dropout, "max_steps": 1})
        trainer = _trainer(llama, tmp_path / str(dropout), config)
        modes: set[bool] = set()
        trainer.model.encoder.register_forward_hook(
            lambda module, *_, modes=modes: modes.add(module.training)  # type: ignore[misc]
        )
        trainer._step(next(trainer._samples()))
        assert modes == {dropout}


def test_the_best_model_by_validation_is_kept(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"max_steps": 12})
    trainer = _trainer(llama, tmp_path / "out", config)
    found = trainer.run()
    rows = list(csv.DictReader((tmp_path / "out/training.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert all(f"loss.{name}" in rows[0] for name in LOSSES)
    best = max(rows, key=lambda row: float(row["score"]))
    kept = LaneModel.load(tmp_path / "out", llama)
    _, held_out = split(examples_of_towns(), config.num_validation)
    measured = validate(kept, llama, held_out, torch.zeros(0, D_R))
    # the only figure that does not depend on the distractors
    assert measured.with_own_prompt == pytest.approx(float(best["with_own_prompt"]), abs=1e-4)
    assert found.with_own_prompt == measured.with_own_prompt
    mine, theirs = trainer.model.state_dict(), kept.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_training_stops_without_improvement(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"max_steps": 500, "evaluate_every": 1, "patience": 2, "learning_rate": 1e-9,
                "encoder_learning_rate": 1e-9}
    )  # fmt: skip
    steps: list[int] = []
    _trainer(llama, tmp_path / "out", config).run(lambda stand: steps.append(stand.step))
    assert steps[-1] <= 5


def test_early_stopping_applies_only_to_the_last_stage(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"stages": "apart", "retriever_share": 0.7, "scope_share": 0.1, "max_steps": 10,
                "evaluate_every": 1, "patience": 1}
    )  # fmt: skip
    losses_seen: set[str] = set()
    _trainer(llama, tmp_path / "out", config).run(lambda stand: losses_seen.update(stand.losses))
    assert losses_seen == set(LOSSES), "MLP_P was trained"


def test_training_stops_at_its_time_limit(llama: CausalLM, tmp_path: Path) -> None:
    model = new_lane_model(llama, None, TINY)
    trainer = Trainer(llama, model, examples_of_towns(), TINY, tmp_path / "out", max_seconds=1e-6)
    steps: list[int] = []
    trainer.run(lambda stand: steps.append(stand.step))
    assert steps == [1]
    assert (tmp_path / "out/lane_model.safetensors").exists()


def test_only_prompts_can_be_trained_with_the_retriever_of_another_lane_model(
    llama: CausalLM, tmp_path: Path
) -> None:
    _trainer(llama, tmp_path / "whole").run()
    known = LaneModel.load(tmp_path / "whole", llama)
    before = {name: tensor.clone() for name, tensor in known.state_dict().items()}
    config = TINY.model_copy(update={"stages": "prompts", "num_prompt": 7, "d_r": 99})
    model = new_lane_model(llama, None, config, known)
    Trainer(llama, model, examples_of_towns(), config, tmp_path / "prompts").run()
    made = LaneModel.load(tmp_path / "prompts", llama)
    assert (made.shape.num_prompt, made.shape.d_r) == (7, D_R)
    for name, tensor in made.state_dict().items():
        if not name.startswith("prompt_mlp"):
            assert torch.equal(tensor, before[name]), name
    stranger = new_lane_model(llama, None, config, make_lane_model(llama, seed=9))
    with pytest.raises(PreconditionError, match="other settings"):
        Trainer(llama, stranger, examples_of_towns(), config, tmp_path / "prompts")
    with pytest.raises(InvalidRequestError, match="requires a retriever"):
        new_lane_model(llama, None, TINY, known)
    with pytest.raises(InvalidRequestError, match="requires a retriever"):
        new_lane_model(llama, None, config)


def test_a_loss_that_is_not_finite_stops_training_with_a_reason(
    llama: CausalLM, tmp_path: Path
) -> None:
    trainer = _trainer(llama, tmp_path / "out")
    with torch.no_grad():
        trainer.model.sentinel.fill_(float("nan"))
    with pytest.raises(FitError, match="learning rate"):
        trainer.run()


def test_a_folder_of_another_training_is_not_changed(llama: CausalLM, tmp_path: Path) -> None:
    _trainer(llama, tmp_path / "out").run()
    kept = (tmp_path / "out/lane_model.safetensors").read_bytes()
    with pytest.raises(PreconditionError, match="other settings"):
        _trainer(llama, tmp_path / "out", TINY.model_copy(update={"seed": 7}))
    model = new_lane_model(llama, None, TINY)
    others = [replace(example, target="Oslo") for example in examples_of_towns()]
    with pytest.raises(PreconditionError, match="data"):
        Trainer(llama, model, others, TINY, tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").touch()
    with pytest.raises(PreconditionError, match="not empty"):
        _trainer(llama, tmp_path / "foreign")
    assert (tmp_path / "out/lane_model.safetensors").read_bytes() == kept


def _samples() -> list[Sample]:
    return [Sample(e, e.rephrases[0], e.locality[0]) for e in examples_of_towns(4)]


def test_other_keys_of_the_same_subject_are_excluded(llama: CausalLM) -> None:
    model = make_lane_model(llama)
    pooled = PooledFacts.of(model.encoder, _samples())
    rows = torch.tensor([0, 1, 2, 3, 0])  # the last is the first one's own key again
    found = scope_losses(model, pooled, rows, 1, TINY, SCALE)
    alone = scope_losses(model, pooled, rows[:4], 1, TINY, SCALE)
    strangers = replace(
        pooled,
        **{
            name: getattr(pooled, name)[rows]
            for name in ("statements", "prompts", "rephrases", "outside")
        },
        subjects=torch.arange(5),
    )
    hit = scope_losses(model, strangers, torch.arange(5), 1, TINY, SCALE)
    torch.testing.assert_close(found["neighbour"], alone["neighbour"])
    assert hit["neighbour"] > found["neighbour"]
    assert hit["outside"] > alone["outside"], "more keys can claim wrongly"


def test_the_scope_stage_does_not_change_the_encoder(llama: CausalLM, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={
            "stages": "apart", "retriever_share": 0.25, "scope_share": 0.5, "max_steps": 8,
            "evaluate_every": 8, "candidates": 16,
        }
    )  # fmt: skip
    trainer = _trainer(llama, tmp_path / "out", config)
    states: dict[int, dict[str, torch.Tensor]] = {}

    def note(stand: Progress) -> None:
        states[stand.step] = {n: t.clone() for n, t in trainer.model.state_dict().items()}

    trainer.run(note)
    for name, before in states[2].items():
        same = torch.equal(before, states[5][name])
        learns = name.startswith(("key_mlp", "query_mlp", "sentinel"))
        assert same is not learns, name
    rows = list(csv.DictReader((tmp_path / "out/training.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [2, 6, 8], "each stage ends with a validation"


def test_both_prompts_enter_both_losses_in_the_paper_and_one_each_in_the_code(
    llama: CausalLM,
) -> None:
    model = make_lane_model(llama)
    both = [losses(model, llama, _samples(), TINY, SCALE) for _ in range(2)]
    assert both[0]["neighbour"] == both[1]["neighbour"]
    coin = TINY.model_copy(update={"sides": "coin"})
    torch.manual_seed(0)
    tossed = {float(losses(model, llama, _samples(), coin, SCALE)["neighbour"]) for _ in range(8)}
    assert len(tossed) > 1
    larger = losses(model, llama, _samples(), TINY, 2 * SCALE)["neighbour"]
    assert larger != both[0]["neighbour"]


def test_a_loss_without_weight_is_not_computed(llama: CausalLM) -> None:
    free = TINY.model_copy(update={"locality_weight": 0.0})
    found = losses(make_lane_model(llama), llama, _samples(), free, SCALE)
    assert found.keys() == set(LOSSES) - {"locality"}


def test_parts_by_length_have_the_same_losses_as_the_whole(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lane_model(llama)
    config = TINY.model_copy(update={"own_prompt_every": 2})
    together = losses(model, llama, _samples(), config, SCALE, "prompts")
    monkeypatch.setattr(objective, "_ROWS_AT_ONCE", 1)
    apart = losses(model, llama, _samples(), config, SCALE, "prompts")
    torch.testing.assert_close(apart, together)
    every = config.model_copy(update={"own_prompt_every": 1})
    of_all = losses(model, llama, _samples(), every, SCALE, "prompts")
    torch.testing.assert_close(of_all["generality"], together["generality"])
    assert of_all["reliability"] != together["reliability"]


def test_the_initial_retriever_ranks_by_similarity(llama: CausalLM) -> None:
    facts = [
        replace(example, rephrases=(f"{example.prompt} the",)) for example in examples_of_towns(24)
    ]
    torch.manual_seed(0)
    model = make_lane_model(llama).requires_grad_(True)

    def found() -> float:
        with torch.no_grad():
            keys = model.keys([f"{e.prompt} {e.target}" for e in facts])
            queries = model.queries([e.rephrases[0] for e in facts])
        best = (queries @ keys.T).argmax(dim=1)
        return float((best == torch.arange(len(facts))).float().mean())

    assert found() < 0.1, "random MLPs are at chance level"
    scale = initialise_retriever(model, facts)
    initialise_prompts(model)
    assert found() > 0.25, "even a random encoder distinguishes some names"
    norms = model.keys([f"{e.prompt} {e.target}" for e in facts]).square().sum(-1).mean()
    assert scale == pytest.approx(20 / norms.item(), rel=0.5)
    targets = model.target_embeddings(llama, [(e.prompt, e.target) for e in facts])
    prompts = model.prompts(model.keys([e.prompt for e in facts]), targets)
    cosines = torch.cosine_similarity(prompts[:, 0, 0], targets[:, 0], dim=-1)
    assert float(cosines.detach().mean()) > 0.8, "prompts start as copies of the target"


def test_validation_counts_claims_and_answers_as_served(llama: CausalLM) -> None:
    model = make_lane_model(llama)
    examples = examples_of_towns(6)
    with torch.no_grad():
        model.key_mlp.first.bias.zero_()
        silent = validate(model, llama, examples, torch.zeros(0, D_R))
        queries = model.queries([e.prompt for e in examples])
        crowd = 1e6 * queries.mean(0, keepdim=True)  # wins every query
        crowded = validate(model, llama, examples, crowd)
    assert 0 <= silent.claimed_right <= 1
    assert crowded.claimed_right == 0
    assert crowded.claimed_wrongly == 1
    assert crowded.with_own_prompt == silent.with_own_prompt
    assert replace(silent, locality=0.0).score == 0
    right = replace(silent, reliability=1.0, generality=0.5, locality=1.0, other_answers=1.0)
    assert right.score == pytest.approx(0.8)


def test_validation_also_counts_other_questions_and_targets(llama: CausalLM) -> None:
    model, examples, nothing = make_lane_model(llama), examples_of_towns(6), torch.zeros(0, D_R)
    same = [Sample(e, e.rephrases[0], e.locality[0]) for e in examples]
    alone = validate(model, llama, examples, nothing)
    assert alone.other_answers == alone.with_own_prompt
    again = validate(model, llama, examples, nothing, same)
    assert again.other_answers == pytest.approx(alone.with_own_prompt, abs=1e-6)
    with torch.no_grad():
        model.prompt_mlp.second.bias.fill_(50)  # no answer survives this
    lost = validate(model, llama, examples, nothing, same)
    assert lost.other_answers == pytest.approx(lost.with_own_prompt, abs=1e-6)
    assert replace(
        alone, reliability=1.0, generality=1.0, locality=1.0, other_answers=0.5
    ).score == (pytest.approx(4 / 5))


def test_calibration_balances_claims_and_deferrals(llama: CausalLM) -> None:
    model, examples = make_lane_model(llama), examples_of_towns(8)
    nothing = torch.zeros(0, D_R)
    initialise_retriever(model, examples)
    before = model.sentinel_key()
    model.calibration.fill_(calibrated(model, examples, nothing))
    torch.testing.assert_close(model.sentinel_key(), model.calibration * before)

    def balance(factor: float) -> float:
        model.calibration.fill_(factor)
        return validate(model, llama, examples, nothing).retriever_score

    best = float(model.calibration)
    found = {n / 40: balance(n / 40) for n in range(20, 61)}
    assert found[best] == pytest.approx(max(found.values()), abs=1e-6)
    assert len({round(score, 6) for score in found.values()}) > 1, "otherwise this shows nothing"


@pytest.mark.parametrize("stages", ["joint", "apart"])
def test_the_trained_model_is_calibrated(
    llama: CausalLM, tmp_path: Path, stages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "calibrated", lambda model, *_: 0.75 * float(model.calibration))
    for wanted, factor in ((True, 0.75), (False, 1)):
        config = TINY.model_copy(update={"stages": stages, "calibrate": wanted, "max_steps": 3})
        trainer = _trainer(llama, tmp_path / str(wanted), config)
        for _ in range(2):  # a finished training does not change
            trainer.run()
            left = LaneModel.load(tmp_path / str(wanted), llama)
            assert float(left.calibration) == float(trainer.model.calibration) == factor


def test_presets_are_settings_of_one_configuration() -> None:
    paper, code = (TrainingConfig.model_validate(PRESETS[name]) for name in ("paper", "code"))
    assert (paper.d_r, paper.batch, paper.learning_rate, paper.max_steps) == (
        4096,
        8,
        1e-5,
        150_000,
    )
    assert (paper.hinge, paper.scale, paper.sides, paper.alike) == (None, "one", "both", 1)
    assert (paper.num_target, paper.invented, paper.start) == (0, 0.0, "random")
    assert (paper.by_token, paper.questioned, paper.preceded, paper.named) == (False, 0, 0, 0)
    with pytest.raises(ValueError, match="by_token"):
        TrainingConfig(num_target=0)
    assert (paper.stages, paper.locality_weight, paper.dropout) == ("joint", 1.0, True)
    assert (code.hinge, code.scale, code.sides, code.placement) == (
        1.2,
        "sqrt",
        "coin",
        "before_bos",
    )
